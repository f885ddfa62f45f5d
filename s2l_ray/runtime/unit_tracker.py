"""Track in-flight units and failure counts for one actor pool.

Workers report start, finish and failure of each unit. A unit whose worker process died is charged with a failure,
unless its node was lost. The tracker is an actor on the driver's node, one for each pool; counts start at zero in each
run of the driver.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from s2l_ray.runtime.contracts import ActorHandle, Failure
from s2l_ray.runtime.worker_process import Process

# Prefix of the pseudo-unit that covers the construction of a worker; the id of its actor follows.
STARTUP = "starting the worker of actor"
# A unit may lose its node this often: spot nodes are reclaimed, but a unit that crashes each node must end.
MAX_NODES_LOST = 5


@dataclass(frozen=True)
class ActiveUnit:
    """A unit in progress; `since` in seconds since the epoch."""

    process: Process
    unit: str
    since: float

    def __str__(self) -> str:
        unit = "starting" if self.unit.startswith(STARTUP) else self.unit
        return f"{self.process}: {unit} for {(time.time() - self.since) / 60:.1f} minutes"


class UnitTracker:
    """In-flight units by actor and failures by unit.

    retries: attempts after a failed one. done_before: units completed by earlier runs. is_alive: whether Ray still has
    the node of this id.
    """

    def __init__(self, retries: int, done_before: int, is_alive: Callable[[str], bool]) -> None:
        self._retries = retries
        self._done = done_before
        self._is_alive = is_alive
        self._active: dict[str, ActiveUnit] = {}
        self._failures: dict[str, list[Failure]] = {}
        self._nodes_lost: Counter[str] = Counter()

    def start(self, process: Process, unit: str) -> Failure | None:
        """Record the start of a unit; or return the last failure of a unit that has no attempt left."""
        for active in list(self._active.values()):
            if active.process.actor == process.actor or active.unit == unit:
                del self._active[active.process.actor]
                if active.process != process:
                    self._record_death(active)
        failure = self._final_failure(unit)
        if failure is None:
            self._active[process.actor] = ActiveUnit(process, unit, time.time())
        return failure

    def finish(self, process: Process) -> None:
        """Record that the active unit of a process is complete."""
        active = self._active.pop(process.actor, None)
        self._done += active is not None and not active.unit.startswith(STARTUP)

    def fail(self, process: Process, failure: Failure, out_of_memory: bool) -> bool:
        """Record a failure of the active unit. Returns whether to end the run: out of memory before any success."""
        active = self._active.pop(process.actor, None)
        if active is not None:
            self._failures.setdefault(active.unit, []).append(replace(failure, process=str(process)))
        return out_of_memory and not self._done

    def active(self) -> list[ActiveUnit]:
        """The units in progress, longest first."""
        return sorted(self._active.values(), key=lambda active: active.since)

    def _record_death(self, active: ActiveUnit) -> None:
        if not self._is_alive(active.process.node):
            self._nodes_lost[active.unit] += 1
            return
        message = "the worker process died: killed, out of host memory, or crashed"
        failure = Failure("WorkerDied", message, process=str(active.process))
        self._failures.setdefault(active.unit, []).append(failure)

    def _final_failure(self, unit: str) -> Failure | None:
        failures, lost = self._failures.get(unit, []), self._nodes_lost[unit]
        if len(failures) > self._retries:
            return replace(failures[-1], attempts=len(failures))
        if lost > MAX_NODES_LOST:
            return Failure("NodeLost", "its node was lost in every attempt", attempts=lost)
        return None


@ray.remote(num_cpus=0)
class UnitTrackerActor(UnitTracker):
    """A `UnitTracker` that workers reach, with the handles of their actors."""

    def __init__(self, retries: int, done_before: int) -> None:
        super().__init__(retries, done_before, _is_alive)
        self._actors: list[ActorHandle] = []

    def register(self, actor: ActorHandle) -> None:
        """Add the handle of a worker's actor."""
        self._actors.append(actor)

    def end_all(self) -> None:
        """Kill every worker. Ray Data would wait for a call that hangs."""
        for actor in self._actors:
            ray.kill(actor)  # type: ignore[arg-type]


def start_unit_tracker(retries: int, done_before: int) -> ActorHandle:
    """The handle of a new tracker on the driver's node, which outlives the loss of any other."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor_class = UnitTrackerActor.options(scheduling_strategy=here)  # type: ignore[attr-defined]
    tracker: ActorHandle = actor_class.remote(retries, done_before)
    return tracker


def _is_alive(node: str) -> bool:
    return any(one["NodeID"] == node and one["Alive"] for one in ray.nodes())
