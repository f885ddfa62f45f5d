"""Exceptions with a message for the user: what happened, where, and what to do next.

The command line prints the message without a traceback and exits with status 2 for `ConfigError` (the job file or the
command is wrong) and with status 1 for every other `S2LError`.
"""


class S2LError(Exception):
    """Base class of failures that the message explains. page: what explains more, e.g. `docs/data.md#files`."""

    page: str | None = None

    def __init__(self, message: str = "", *, page: str | None = None) -> None:
        super().__init__(message)
        self.page = page or self.page


class ConfigError(S2LError):
    """The job file or the command line is wrong; nothing was started."""


class UnresolvedError(ConfigError):
    """A revision has no known commit, because the hub cannot be reached."""

    page = "docs/data.md#the-hub"


class DamagedError(S2LError):
    """A stored file differs from its record in the manifest."""

    page = "docs/failures.md#damaged-files"


class LockedError(S2LError):
    """Another running driver holds the lock of the artifact."""

    page = "docs/failures.md#two-drivers"


class StorageError(S2LError):
    """A store refused a request, or did not answer within the retry limit."""
