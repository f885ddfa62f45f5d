"""The monitor of one pool, one-node task or training: active workers, their progress, and failures.

It is an actor on the driver's node, which outlives the loss of any other node and every worker process. It counts the
attempts of a unit, since a failed unit costs its process. Each run of the driver starts with a new monitor.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from s2l_ray.errors import S2LError
from s2l_ray.runtime.contracts import ActorHandle, Failure, Progress, RemoteTask, Report, Usage
from s2l_ray.runtime.failures import first_line
from s2l_ray.runtime.placement import describe_request
from s2l_ray.runtime.worker_process import Process

# A unit may lose its node this often: spot nodes are reclaimed, but a unit that crashes each node must end.
MAX_NODES_LOST = 5
POLL_SECONDS = 0.5


class StallError(S2LError):
    """No worker reported anything for too long."""


@dataclass(frozen=True)
class ActiveUnit:
    """A unit in progress; `since` in seconds since the epoch."""

    process: Process
    unit: str
    since: float
    progress: Progress | None = None

    def __str__(self) -> str:
        now = self.progress
        steps = f"{now.done:g} of {now.total:g} {now.unit}, " if now else ""
        return f"{self.process}: {self.unit}, {steps}for {(time.time() - self.since) / 60:.1f} minutes"


@dataclass(frozen=True)
class Status:
    """Latest progress, all failures, active units from the longest, seconds since the last report of any worker.

    usage: of the processes that finished a unit.
    """

    progress: Progress | None
    failures: list[Failure]
    active: list[ActiveUnit]
    idle_seconds: float
    usage: tuple[Usage, ...] = ()


def is_alive(node: str) -> bool:
    return any(one["NodeID"] == node and one["Alive"] for one in ray.nodes())


class Monitor:
    """Active units by actor, failures by unit. done_before: units completed by earlier runs."""

    def __init__(self, task: RemoteTask, done_before: int = 0, is_alive: Callable[[str], bool] = is_alive) -> None:
        self._task = task
        self._done = done_before
        self._is_alive = is_alive
        self._actors: dict[str, ActorHandle] = {}
        self._active: dict[str, ActiveUnit] = {}
        self._failures: dict[str, list[Failure]] = {}
        self._nodes_lost: Counter[str] = Counter()
        self._progress: Progress | None = None
        self._usage: dict[str, Usage] = {}
        self._reported = time.monotonic()
        self._stopping = False

    def register(self, process: Process, actor: ActorHandle) -> None:
        self._actors[process.actor] = actor

    def start(self, process: Process, unit: str) -> Failure | None:
        """Record the start of a unit; or return the last failure of a unit that has no attempt left.

        A unit that another process had started failed with that process, unless its node was lost.
        """
        self._reported = time.monotonic()
        for active in list(self._active.values()):
            if active.process.actor == process.actor or active.unit == unit:
                del self._active[active.process.actor]
                if active.process != process:
                    self._record_death(active)
        if (failure := self._final_failure(unit)) is None:
            self._active[process.actor] = ActiveUnit(process, unit, time.time())
        return failure

    def progress(self, process: Process, progress: Progress) -> bool:
        """Record the progress of the active unit of a process. Returns whether it is to stop."""
        self._reported, self._progress = time.monotonic(), progress
        if process.actor in self._active:
            self._active[process.actor] = replace(self._active[process.actor], progress=progress)
        return self._stopping

    def finish(self, process: Process, usage: Usage | None = None) -> None:
        """Record the end of the active unit of a process, and the usage of the process so far."""
        self._reported = time.monotonic()
        if usage is not None:
            self._usage[usage.process] = usage
        self._done += self._active.pop(process.actor, None) is not None

    def fail(self, process: Process, failure: Failure) -> bool:
        """Record a failure of the active unit. Returns whether to end the run, as for no memory before any success."""
        self._reported = time.monotonic()
        active = self._active.pop(process.actor, None)
        final = failure.final or (failure.out_of_memory and not self._done)
        unit = active.unit if active is not None else str(process)
        self._failures.setdefault(unit, []).append(replace(failure, process=str(process), final=final))
        return final

    def status(self) -> Status:
        failures = [failure for failures in self._failures.values() for failure in failures]
        active = sorted(self._active.values(), key=lambda active: active.since)
        return Status(self._progress, failures, active, time.monotonic() - self._reported, tuple(self._usage.values()))

    def stop(self) -> None:
        """Request a stop; workers receive it in reply to their next progress."""
        self._stopping = True

    def kill(self) -> None:
        """Kill every worker. Ray would wait for a call that hangs."""
        for actor in self._actors.values():
            ray.kill(actor)  # type: ignore[arg-type]

    def _record_death(self, active: ActiveUnit) -> None:
        if not self._is_alive(active.process.node):
            self._nodes_lost[active.unit] += 1
            return
        cause = f"killed, crashed, or out of host memory; if memory ran out, {self._task.memory_hint}"
        message = f"{self._task.name}: the worker process died: {cause}"
        failure = Failure("WorkerDied", message, process=str(active.process))
        self._failures.setdefault(active.unit, []).append(failure)

    def _final_failure(self, unit: str) -> Failure | None:
        failures, lost = self._failures.get(unit, []), self._nodes_lost[unit]
        if len(failures) > self._task.retry.retries:
            return replace(failures[-1], attempts=len(failures))
        if lost > MAX_NODES_LOST:
            return Failure("NodeLost", f"{self._task.name}: the node was lost in every attempt", attempts=lost)
        return None


def start_monitor(task: RemoteTask, done_before: int = 0) -> ActorHandle:
    """The handle of a new monitor. It ends with `ray.kill`, or with the driver."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor_class: Any = ray.remote(num_cpus=0)(Monitor)
    monitor: ActorHandle = actor_class.options(scheduling_strategy=here).remote(task, done_before)
    return monitor


def watch(monitor: ActorHandle, task: RemoteTask, is_running: Callable[[float], bool], report: Report) -> list[Failure]:
    """Report progress and retried failures until `is_running(seconds)` is false. Returns all failures.

    Raises `StallError` if no worker reports anything for `stall_minutes`, or for `wait_minutes` if none is active and
    those are more.
    """
    reported, warned, failures, retry = None, 0, 0, task.retry
    while True:
        running = is_running(POLL_SECONDS)
        status: Status = ray.get(monitor.status.remote())
        failures = report_failures(status, task.kind, failures, report)
        if status.progress not in (None, reported):
            reported = status.progress
            report(replace(reported, kind=task.kind))
        for failure in status.failures[warned : retry.retries]:
            warned += 1
            if not failure.final:
                report(Progress(task.kind, warning=f"{first_line(failure.message)}; retrying"))
        if not running:
            if status.usage:
                report(Progress(task.kind, usage=status.usage))
            return status.failures
        minutes = retry.stall_minutes if status.active else max(retry.stall_minutes, retry.wait_minutes)
        if status.idle_seconds > minutes * 60:
            raise stalled(monitor, task, minutes)


def report_failures(status: Status, kind: str, reported: int, report: Report) -> int:
    """Report how many attempts failed after the first `reported`, if any. Returns the number of all."""
    if len(status.failures) > reported:
        report(Progress(kind, failures=len(status.failures) - reported))
    return len(status.failures)


def stalled(monitor: ActorHandle, task: RemoteTask, minutes: float) -> StallError:
    """Kill the workers. Returns the exception to raise, which names what each did."""
    status: Status = ray.get(monitor.status.remote())
    ray.get(monitor.kill.remote())
    lines = [f"{task.name}: no progress for {minutes:g} minutes."]
    if status.active:
        lines += ["Active workers:", *(f"  {one}" for one in status.active)]
        lines.append(
            "Check these processes, then run again to resume; raise resources.stall_minutes if one step takes that long"
        )
    else:
        lines.append(f"No worker is active: no node has {describe_request(task.request)} free; check the cluster")
    return StallError("\n".join(lines))
