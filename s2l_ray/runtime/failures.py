"""Exceptions of workers as plain records, and back as exceptions in the driver.

An `S2LError` keeps its class and message; out of memory and disk full become messages with a hint; any other exception
becomes a `WorkerError` with the worker's traceback for `--debug`.
"""

import errno
import re
import traceback

from s2l_ray import errors
from s2l_ray.runtime.contracts import Failure, RemoteTask

MEMORY_SIGNS = ("out of memory", "can't allocate memory", "OutOfMemory")


class WorkerError(errors.S2LError):
    """An unexpected failure of a worker; `details` is its traceback."""

    def __init__(self, message: str, details: str) -> None:
        super().__init__(message)
        self.details = details


class UnitsFailed(WorkerError):
    """More units than allowed failed in every attempt; results of the other units are stored."""


def failure_from_exception(error: BaseException, task: RemoteTask) -> Failure:
    """The record of an exception that a worker of the task raised; call it in the `except` block, for the traceback."""
    kind, message, out_of_memory = type(error).__name__, str(error), is_out_of_memory(error)
    final = is_disk_full(error) or (isinstance(error, errors.S2LError) and not isinstance(error, errors.StorageError))
    if out_of_memory:
        kind, message = "S2LError", f"{task.name}: out of memory ({first_line(message) or kind}); {task.memory_hint}"
    elif is_disk_full(error):
        disk = getattr(error, "filename", None) or "the disk"
        kind, message = "S2LError", f"{task.name}: no space left on {disk}; free some space and run again"
    elif not isinstance(error, errors.S2LError):
        message = f"{task.name}: {kind}: {message}"
    return Failure(kind, message, traceback.format_exc(), final=final, out_of_memory=out_of_memory)


def exception_from_failure(failure: Failure) -> errors.S2LError:
    known = getattr(errors, failure.kind, None)
    if isinstance(known, type) and issubclass(known, errors.S2LError):
        return known(failure.message)
    return WorkerError(failure.message, failure.details)


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in MEMORY_SIGNS)


def is_disk_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno == errno.ENOSPC


def first_line(text: str) -> str:
    return next(iter(text.splitlines()), "")


def engine_error(error: BaseException, task: RemoteTask) -> errors.S2LError:
    """An error of Ray as the exception to raise: the exception that ends its traceback, or else its first line."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    summary = lines[-1] if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", lines[-1]) else lines[0]
    return errors.S2LError(f"{task.name}: {summary}; if memory ran out, {task.memory_hint}; run again")
