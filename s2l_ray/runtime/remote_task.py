"""Run one function on one node, for work on a whole matrix (the k-means fit, the selector).

The function may be called again after its node was lost or after a failure that a retry can change, so it must be
idempotent: its output has a fixed name and is written whole. A function without progress for too long is ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray import ObjectRef
from ray.exceptions import RayError

from s2l_ray.errors import S2LError
from s2l_ray.runtime.contracts import ActorHandle, Done, Failure, Progress, RemoteTask, Report, ignore_progress
from s2l_ray.runtime.failures import (
    ends_run,
    exception_from_failure,
    failure_from_exception,
    first_line,
    is_out_of_memory,
    stall_message,
    summarize_ray_error,
)
from s2l_ray.runtime.worker_process import ReportedProgress, arm_exit_watchdog, latest_progress, this_process

T = TypeVar("T")
# Calls after the first one that lost its node or process.
MAX_RESTARTS = 2
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class CallFailed:
    """A failure of a call. final: a retry would fail too."""

    failure: Failure
    final: bool


Result = Done[Any] | CallFailed


@dataclass(frozen=True)
class Heartbeat:
    """Process and progress of a call, as last polled; without a process while the actor waits for a node."""

    process: str = ""
    progress: ReportedProgress | None = None

    def __str__(self) -> str:
        now = self.progress
        return f"{self.process}: {f'{now.done} of {now.total} {now.unit}' if now else 'no progress reported'}"


@ray.remote
class TaskActor:
    """An actor that calls one function and answers heartbeats meanwhile."""

    def __init__(self) -> None:
        arm_exit_watchdog()

    def call(self, function: Callable[..., Any], arguments: tuple[object, ...], task: RemoteTask) -> Result:
        try:
            return Done(function(*arguments))
        except Exception as error:  # raised in the driver
            final = ends_run(error) or is_out_of_memory(error)
            return CallFailed(failure_from_exception(error, task.name, task.memory_hint), final)

    @ray.method(max_task_retries=0)  # a heartbeat of a lost process is not repeated
    def heartbeat(self) -> Heartbeat:
        return Heartbeat(str(this_process()), latest_progress())


def run_on_one_node(
    task: RemoteTask, function: Callable[..., T], *arguments: object, report: Report = ignore_progress
) -> T:
    """The result of `function(*arguments)`, called in an actor that takes `task.request` of one node.

    report: called with progress, and with a warning before a retry; an exception in it ends the call. Raises the
    failure of the last attempt as an `S2LError`.
    """
    for attempt in range(task.retry.retries + 1):
        result = _call(task, function, arguments, report)
        if isinstance(result, Done):
            return result.value  # type: ignore[no-any-return]
        failure = exception_from_failure(result.failure)
        if result.final or attempt == task.retry.retries:
            raise failure
        report(Progress(task.kind, warning=f"{first_line(str(failure))}; retrying"))
    raise AssertionError("retries are not negative")


def _call(task: RemoteTask, function: Callable[..., T], arguments: tuple[object, ...], report: Report) -> Result:
    request = task.request
    actor = TaskActor.options(  # type: ignore[attr-defined]
        num_cpus=request.cpus,
        num_gpus=request.gpus,
        memory=request.memory or None,
        max_restarts=MAX_RESTARTS,
        max_task_retries=MAX_RESTARTS,
        max_concurrency=2,
    ).remote()
    try:
        reference: ObjectRef[Result] = actor.call.remote(function, arguments, task)
        _monitor(actor, reference, task, report)
        result: Result = ray.get(reference)
        return result
    except RayError as error:
        summary = summarize_ray_error(error)
        raise S2LError(f"{task.name}: {summary}; if memory ran out, {task.memory_hint}; run again") from error
    finally:
        ray.kill(actor)


def _monitor(actor: ActorHandle, result: ObjectRef[Result], task: RemoteTask, report: Report) -> None:
    """Report progress until the result is ready. Raises `S2LError` if there is none for too long."""
    last, since = Heartbeat(), time.monotonic()
    polled = actor.heartbeat.remote()
    while not ray.wait([result], timeout=POLL_SECONDS)[0]:
        heartbeat = _received(polled)
        if heartbeat is not None:
            polled = actor.heartbeat.remote()
        minutes = task.retry.stall_minutes
        if last == Heartbeat():
            minutes = max(minutes, task.retry.wait_minutes)
        if heartbeat is not None and heartbeat != last:
            last, since = heartbeat, time.monotonic()
            if (now := last.progress) is not None:
                report(Progress(task.kind, now.done, now.total, now.unit))
        elif time.monotonic() - since > minutes * 60:
            raise S2LError(_stalled(task, minutes, last))


def _stalled(task: RemoteTask, minutes: float, last: Heartbeat) -> str:
    request = task.request
    resources = f"{request.cpus:g} CPUs, {request.gpus:g} GPUs and {request.memory / 1e9:.3g} GB of memory"
    active = [] if last == Heartbeat() else [str(last)]
    return stall_message(task.name, minutes, active, f"no node has {resources} free")


def _received(polled: ObjectRef[Heartbeat]) -> Heartbeat | None:
    """The heartbeat, if it has arrived; an empty one for a process that was lost."""
    if not ray.wait([polled], timeout=0)[0]:
        return None
    try:
        heartbeat: Heartbeat = ray.get(polled)
        return heartbeat
    except RayError:
        return Heartbeat()
