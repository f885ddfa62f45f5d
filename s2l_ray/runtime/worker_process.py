"""Functions for code inside a worker process: its identity, progress reports, usage, and a watchdog for its exit.

Importable without Ray, since stages call `report_progress` and `track` in functions that also run without it.
"""

import atexit
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from s2l_ray.runtime.contracts import ActorHandle, Progress, Usage

T = TypeVar("T")


@dataclass(frozen=True)
class Process:
    """A worker process. A restarted actor keeps its id and gets another pid."""

    actor: str
    node: str
    host: str
    pid: int

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"


_joined: tuple[Process, ActorHandle] | None = None
_worked = 0.0


def report_progress(done: int, total: int, unit: str) -> None:
    """Report `done` of `total` steps to the monitor of this process; without one, do nothing."""
    if _joined is not None:
        process, monitor = _joined
        monitor.progress.remote(process, Progress("", done, total, unit))


def track(items: Sequence[T], unit: str) -> Iterator[T]:
    """Iterate over items and report each as a step."""
    for number, item in enumerate(items):
        report_progress(number, len(items), unit)
        yield item
    report_progress(len(items), len(items), unit)


@contextmanager
def working() -> Iterator[None]:
    """Count the seconds of a block as work that grows with the data, in a function that runs on one node."""
    global _worked
    began = time.monotonic()
    try:
        yield
    finally:
        _worked += time.monotonic() - began


def usage_of(process: Process, seconds: float | None = None) -> Usage:
    """The usage of this process: `seconds` of work beside other workers, or for None all of `working` alone."""
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Usage(str(process), _worked if seconds is None else seconds, peak_bytes, alone=seconds is None)


def join_monitor(monitor: ActorHandle) -> Process:
    """Register this actor's process with its monitor and arm the exit watchdog. Returns the process."""
    import ray

    global _joined
    arm_exit_watchdog()
    context = ray.get_runtime_context()
    process = Process(str(context.get_actor_id()), context.get_node_id(), socket.gethostname(), os.getpid())
    monitor.register.remote(process, context.current_actor)
    _joined = process, monitor
    return process


def arm_exit_watchdog(seconds: int = 60) -> None:
    """Have the kernel kill this process `seconds` after interpreter shutdown begins.

    Ray 2.60 can deadlock after Python's shutdown (`~CoreWorkerProcessImpl`, about one in a thousand actors). Such a
    process would keep its memory, including a GPU's, until the node ends.
    """
    atexit.register(signal.alarm, seconds)
