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

from s2l_ray.runtime.contracts import ActorHandle, Progress

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
