"""Failures that a user can act on.

In: a message that names the thing, the place and the remedy. Out: an exception whose text the command line prints
alone, without a traceback. `ConfigError` ends the command with status 2 (the job or the command is wrong), every other
`S2LError` with status 1 (the job failed).
"""


class S2LError(Exception):
    """Something failed in a way the message explains, with its remedy."""


class ConfigError(S2LError):
    """The job file or the command line is wrong; nothing was started."""


class DamagedError(S2LError):
    """A stored file is not what its manifest says."""


class LockedError(S2LError):
    """Another living driver is building the artefact."""


class StorageError(S2LError):
    """A store refused, or did not answer for as long as one waits."""
