"""Functions for code inside a worker process: its identity, progress reports, and a watchdog for its exit.

Importable without Ray, since stages call `report_progress` and `track` in functions that also run without it.
"""

import atexit
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
EXIT_SECONDS = 60


@dataclass(frozen=True)
class Process:
    """A worker process. A restarted actor keeps its id and gets another pid."""

    actor: str
    node: str
    host: str
    pid: int

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"


@dataclass(frozen=True)
class ReportedProgress:
    """`done` of `total` steps of the function that runs in this process."""

    done: int
    total: int
    unit: str


_latest: ReportedProgress | None = None


def report_progress(done: int, total: int, unit: str) -> None:
    """Record the progress of the function that runs in this process; the driver polls it."""
    global _latest
    _latest = ReportedProgress(done, total, unit)


def latest_progress() -> ReportedProgress | None:
    """The last record of `report_progress` in this process."""
    return _latest


def track(items: Sequence[T], unit: str) -> Iterator[T]:
    """Iterate over items and report each as a step."""
    for number, item in enumerate(items):
        report_progress(number, len(items), unit)
        yield item
    report_progress(len(items), len(items), unit)


def this_process() -> Process:
    """The process of the calling actor."""
    import ray

    context = ray.get_runtime_context()
    return Process(context.get_actor_id() or "", context.get_node_id(), socket.gethostname(), os.getpid())


def arm_exit_watchdog(seconds: int = EXIT_SECONDS) -> None:
    """Have the kernel kill this process `seconds` after interpreter shutdown begins.

    Ray 2.60 can deadlock after Python's shutdown (`~CoreWorkerProcessImpl`, about one in a thousand actors). Such a
    process would keep its memory, including a GPU's, until the node ends.
    """
    atexit.register(signal.alarm, seconds)
