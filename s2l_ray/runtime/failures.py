"""Failures of workers, carried to the driver as plain records.

In: an exception in a worker. Out: a JSON-able record there, and the exception again in the driver: an `S2LError` as it
was, memory and disk as one message with the key to lower, anything else with the worker's traceback for `--debug`.
"""

import errno
import re
import traceback

from s2l_ray import errors

Record = dict[str, str]


class WorkerError(errors.S2LError):
    """A worker failed in a way nobody foresaw; `details` is its traceback."""

    def __init__(self, message: str, details: str) -> None:
        super().__init__(message)
        self.details = details


class UnitsSetAside(WorkerError):
    """Units that failed in every try; whatever else was to be done is done and kept."""


def to_record(error: BaseException, what: str, lower: str) -> Record:
    """The failure of `what`; `lower` names the key that makes it need less memory."""
    kind, message = type(error).__name__, str(error)
    if is_out_of_memory(error):
        kind, message = "S2LError", f"{what}: out of memory ({next(iter(message.splitlines()), kind)}); lower {lower}"
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        kind, message = "S2LError", f"{what}: no space left on {error.filename or 'the disk'}; free some and run again"
    elif not isinstance(error, errors.S2LError):
        message = f"{what}: {kind}: {message}"
    return {"kind": kind, "message": message, "details": traceback.format_exc()}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error is the host's or the device's memory running out."""
    return isinstance(error, MemoryError) or any(
        sign in str(error) for sign in ("out of memory", "can't allocate memory", "OutOfMemory")
    )


def ends_run(error: BaseException) -> bool:
    """Whether the failure of one unit says that the job is wrong, so that no other unit is worth its while."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return True
    return isinstance(error, errors.S2LError) and not isinstance(error, errors.StorageError)


def from_record(record: Record) -> errors.S2LError:
    """The exception to raise in the driver."""
    known = getattr(errors, record["kind"], None)
    if isinstance(known, type) and issubclass(known, errors.S2LError):
        return known(record["message"])
    return WorkerError(record["message"], record["details"])


def first_line(text: str) -> str:
    """The first line of a message, or nothing."""
    return next(iter(text.splitlines()), "")


def summary_of(error: BaseException) -> str:
    """One line of an error of Ray's: the exception that ends its traceback, or what it begins with."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", lines[-1]) else lines[0]
