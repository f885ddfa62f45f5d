"""The desk: who does what since when, and how often each unit has failed.

In: a word from every worker before it begins a unit, once it has ended it, and when it fails. Out: whether the unit is
to be begun or set aside. A worker that dies leaves its unit at the desk; that is a failure of the unit, or of its node.
Of a unit that failed in every try some rows are tried by themselves, and what came of that is kept here too.
The desk is an actor beside the driver, one a pool: a driver that is killed and started again counts anew.
"""

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from s2l_ray.runtime.failures import Record

STARTING = "making a worker"
"""What an actor does before its first unit; each makes one of its own."""
NODES_LOST = 5
"""A unit may be lost with its node that often: spot nodes go, but a unit that takes its node along each time is bad."""


@dataclass(frozen=True)
class Process:
    """Where a worker runs. An actor that is started again keeps its name and gets another pid."""

    actor: str
    node: str
    host: str
    pid: int

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"


@dataclass(frozen=True)
class Work:
    """What a worker does; `since` in seconds since the epoch."""

    process: Process
    unit: str
    since: float


class Ledger:
    """What lies on the desk. `is_alive` tells of a node whether Ray still has it."""

    def __init__(self, retries: int, finished: int, is_alive: Callable[[str], bool]) -> None:
        self._retries = retries
        self._retries_of_part: dict[str, int] = {}
        self._passed: set[str] = set()
        self._narrowed_since: dict[str, float] = {}
        self._rows_at_fault: dict[int, set[int]] = {}
        self._finished = finished
        self._is_alive = is_alive
        self._in_hand: dict[str, Work] = {}
        self._failures: dict[str, list[Record]] = {}
        self._nodes_lost: Counter[str] = Counter()

    def begin(self, process: Process, unit: str) -> Record | None:
        """Note that a worker begins a unit; or say with what failure the unit is to be set aside."""
        for work in list(self._in_hand.values()):
            if work.process.actor == process.actor or work.unit == unit:
                del self._in_hand[work.process.actor]
                if work.process != process:
                    self._died(work)
        failure = self._last_failure(unit)
        if failure is None:
            self._in_hand[process.actor] = Work(process, unit, time.time())
        return failure

    def begin_part(self, process: Process, part: str, once: bool) -> tuple[bool, Record | None]:
        """Whether rows of a unit are to be tried now, and how they failed if they did; `once` allows no retries."""
        self._retries_of_part[part] = 0 if once else self._retries
        passed = part in self._passed
        failure = None if passed else self.begin(process, part)
        return not passed and failure is None, failure

    def narrowed_for(self, unit: str) -> float:
        """For how many seconds the rows at fault of this unit have been searched for."""
        return time.time() - self._narrowed_since.setdefault(unit, time.time())

    def ended(self, process: Process) -> None:
        """Note that a worker has finished what it did."""
        work = self._in_hand.pop(process.actor, None)
        if work is not None and work.unit in self._retries_of_part:
            self._passed.add(work.unit)
        elif work is not None:
            self._finished += not work.unit.startswith(STARTING)

    def failed(self, process: Process, failure: Record, out_of_memory: bool) -> bool:
        """Note that a worker failed in its unit. Whether the run is to end: memory that no unit has fitted into."""
        work = self._in_hand.pop(process.actor, None)
        if work is not None:
            self._failures.setdefault(work.unit, []).append(failure)
        return out_of_memory and not self._finished

    def rows_at_fault(self, shard: int, found: Collection[int] = ()) -> list[int]:
        """The rows of a shard that failed in any unit; those of this one are added."""
        rows = self._rows_at_fault.setdefault(shard, set())
        rows.update(found)
        return sorted(rows)

    def doing(self) -> list[Work]:
        """What every worker does now, the longest work first."""
        return sorted(self._in_hand.values(), key=lambda work: work.since)

    def _died(self, work: Work) -> None:
        if not self._is_alive(work.process.node):
            self._nodes_lost[work.unit] += 1
            return
        message = "its process died: killed from outside, out of the host's memory, or crashed"
        failure = {"kind": "", "message": message, "details": "", "where": str(work.process)}
        self._failures.setdefault(work.unit, []).append(failure)

    def _last_failure(self, unit: str) -> Record | None:
        failures, lost = self._failures.get(unit, []), self._nodes_lost[unit]
        if len(failures) > self._retries_of_part.get(unit, self._retries):
            return {**failures[-1], "tries": str(len(failures))}
        if lost > NODES_LOST:
            return {"kind": "", "message": "its node was lost every time", "details": "", "tries": str(lost)}
        return None


@ray.remote(num_cpus=0)
class Desk(Ledger):
    """The ledger where every worker can reach it, and where each leaves a way to end it."""

    def __init__(self, retries: int, finished: int) -> None:
        super().__init__(retries, finished, _is_alive)
        self._actors: list[Any] = []

    def come(self, actor: Any) -> None:
        """Leave the handle of a worker's actor."""
        self._actors.append(actor)

    def end_all(self) -> None:
        """End every worker: Ray Data waits for what an actor does, which for one that hangs is for ever."""
        for actor in self._actors:
            ray.kill(actor)


def open_desk(retries: int, finished: int) -> Any:
    """A desk on the driver's node; `finished` units were done before."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Desk.options(scheduling_strategy=here).remote(retries, finished)  # type: ignore[attr-defined]


def this_process() -> Process:
    """The process of the actor that asks."""
    context = ray.get_runtime_context()
    return Process(context.get_actor_id() or "", context.get_node_id(), socket.gethostname(), os.getpid())


def _is_alive(node: str) -> bool:
    return any(one["NodeID"] == node and one["Alive"] for one in ray.nodes())
