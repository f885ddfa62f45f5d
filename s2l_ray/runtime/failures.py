"""Exceptions of workers as plain records, and back as exceptions in the driver.

An `S2LError` keeps its class and message; out of memory and disk full become messages with a hint; any other exception
becomes a `WorkerError` with the worker's traceback for `--debug`.
"""

import errno
import re
import traceback
from collections.abc import Sequence

from s2l_ray import errors
from s2l_ray.runtime.contracts import Failure

MEMORY_SIGNS = ("out of memory", "can't allocate memory", "OutOfMemory")


class WorkerError(errors.S2LError):
    """An unexpected failure of a worker; `details` is its traceback."""

    def __init__(self, message: str, details: str) -> None:
        super().__init__(message)
        self.details = details


class UnitsFailed(WorkerError):
    """More units than allowed failed in every attempt; results of the other units are stored."""


def failure_from_exception(error: BaseException, name: str, memory_hint: str) -> Failure:
    """The record of an exception that was raised in `name`; call it in the `except` block, for the traceback."""
    kind, message = type(error).__name__, str(error)
    if is_out_of_memory(error):
        kind, message = "S2LError", f"{name}: out of memory ({first_line(message) or kind}); {memory_hint}"
    elif is_disk_full(error):
        disk = getattr(error, "filename", None) or "the disk"
        kind, message = "S2LError", f"{name}: no space left on {disk}; free some space and run again"
    elif not isinstance(error, errors.S2LError):
        message = f"{name}: {kind}: {message}"
    return Failure(kind, message, traceback.format_exc())


def exception_from_failure(failure: Failure) -> errors.S2LError:
    """The exception to raise in the driver."""
    known = getattr(errors, failure.kind, None)
    if isinstance(known, type) and issubclass(known, errors.S2LError):
        return known(failure.message)
    return WorkerError(failure.message, failure.details)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or the device ran out of memory."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in MEMORY_SIGNS)


def is_disk_full(error: BaseException) -> bool:
    """Whether a local disk is full."""
    return isinstance(error, OSError) and error.errno == errno.ENOSPC


def ends_run(error: BaseException) -> bool:
    """Whether an error makes the other units pointless: a full disk, or an `S2LError` that no retry can change."""
    return is_disk_full(error) or (isinstance(error, errors.S2LError) and not isinstance(error, errors.StorageError))


def first_line(text: str) -> str:
    """The first line of a message, or an empty string."""
    return next(iter(text.splitlines()), "")


def summarize_ray_error(error: BaseException) -> str:
    """One line of an error of Ray: the exception that ends its traceback, or else its first line."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", lines[-1]) else lines[0]


def stall_message(name: str, minutes: float, active: Sequence[str], not_started: str) -> str:
    """The message for work without progress for `minutes`.

    active: one line for each worker, its process and what it does. not_started: the message when there is none.
    """
    lines = [f"{name}: no progress for {minutes:g} minutes."]
    if active:
        lines += ["Active workers:", *(f"  {line}" for line in active)]
        lines.append(
            "Check these processes, then run again to resume; raise resources.stall_minutes if one step takes that long"
        )
    else:
        lines.append(f"No worker has started: {not_started}; check the cluster's nodes, then run again")
    return "\n".join(lines)
