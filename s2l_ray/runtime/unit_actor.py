"""What Ray Data starts for a pool: an actor around a worker, which takes units and turns failures into records.

In: rows of the pipeline, each with several units. Out: a result a unit: what the worker gave, or a failure that ends
the run, or the failure for which a unit is set aside. A unit that fails costs its process, for what that holds may be
spoilt, as a CUDA context is by a failed assertion: Ray starts the actor anew and gives it the row again. What has
failed, and how often, lies at the desk.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray

from s2l_ray.runtime.exit_watchdog import leave_for_certain
from s2l_ray.runtime.failures import Record, ends_run, first_line, is_out_of_memory, to_record
from s2l_ray.runtime.narrowing import failing_rows
from s2l_ray.runtime.unit_tracker import STARTING, this_process

Unit = dict[str, Any]
Result = dict[str, Any]
WorkerClass = Callable[..., Callable[[Unit], Result]]

NARROWING_SHARE = 0.5
"""Of `stall_minutes`: a search gives no results, and must not look like a run that stands still."""


@dataclass(frozen=True)
class Pool:
    """Actors: between `least` and `most` of them, with `cpus` and `gpus` each.

    `name` and `lower` stand in messages: what the actors do, and the key that makes one need less memory. `finished`:
    units of the same kind that were done before. `goes_on`: that units were set aside is no failure of the whole.
    `remedy`: what to do about them. `by_row`: the worker is a `RowWorker`, its units name their "shard", and one that
    fails in every try is narrowed down to the rows at fault.
    """

    name: str
    lower: str
    least: int = 1
    most: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    arguments: dict[str, Any] = field(default_factory=dict)
    retries: int = 0
    stall_minutes: float = 30.0
    finished: int = 0
    goes_on: bool = False
    remedy: str = "run again, which does only these"
    by_row: bool = False


class RowWorker(Protocol):
    """A worker that can do a unit without some of its rows."""

    def __call__(self, unit: Unit, without: Mapping[int, str]) -> Result:
        """The unit but for these rows; of each there is the failure to note."""

    def rows(self, unit: Unit) -> Sequence[str]:
        """The rows' ids."""

    def attempt(self, unit: Unit, start: int, stop: int) -> None:
        """Do these rows and keep nothing of it."""


class _RunEnds(Exception):
    """A failure for which no other unit is worth its while."""

    def __init__(self, failure: Record) -> None:
        super().__init__(failure["message"])
        self.failure = failure


class _TakesTooLong(Exception):
    """The search for the rows at fault, in which no unit is done."""


class Actor:
    """The worker, its units unpacked, its failures turned into records."""

    def __init__(self, worker: WorkerClass, pool: Pool, desk: Any) -> None:
        self._pool = pool
        self._desk = desk
        self._process = this_process()
        self._worker: Any = None
        leave_for_certain()
        desk.come.remote(ray.get_runtime_context().current_actor)
        try:
            self._failure = self._ask("begin", f"{STARTING} {self._process.actor}")
            if self._failure is None:
                self._worker = worker(**pool.arguments)
                desk.ended.remote(self._process)
        except Exception as error:  # travels to the driver, which raises it there
            self._failure = to_record(error, pool.name, pool.lower)

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        return {"results": json.dumps([self._do(unit) for unit in json.loads(row["units"])])}

    def _do(self, unit: Unit) -> Result:
        if self._worker is None:
            return {"failure": self._failure}
        try:
            failure = self._ask("begin", unit["name"])
            if failure is None:
                return dict(self._try(lambda: self._worker(unit)))
            return self._narrow(unit, failure) if self._pool.by_row else _set_aside(unit, failure)
        except _RunEnds as end:
            return {"failure": end.failure}

    def _narrow(self, unit: Unit, failure: Record) -> Result:
        """Do a unit that failed in every try without the rows at fault; or set it aside, and name them."""
        try:
            if self._fails(unit, 0, 0) is not None:  # it is not the rows
                return _set_aside(unit, failure)
            names = self._worker.rows(unit)
            known: list[int] = ray.get(self._desk.rows_at_fault.remote(unit["shard"]))
            found = failing_rows(len(names), lambda start, stop: self._fails(unit, start, stop), known)
        except _TakesTooLong:
            return _set_aside(unit, failure)
        ray.get(self._desk.rows_at_fault.remote(unit["shard"], list(found)))
        at_fault = {row: first_line(one["message"]) for row, one in sorted(found.items())}
        rows = [f"row {row} (example {names[row]}): {message}" for row, message in at_fault.items()]
        if not found or not self._pool.goes_on:
            return _set_aside(unit, {**failure, "rows": rows})
        again = self._ask("begin", f"{unit['name']} without {len(rows)} rows")
        if again is not None:
            return _set_aside(unit, again)
        return dict(self._try(lambda: self._worker(unit, at_fault)))

    def _fails(self, unit: Unit, start: int, stop: int) -> Record | None:
        """How these rows fail, if they do. Where it was not known, this process ends, and the next one knows.

        What may be the last word, on one row or on none, has the retries of a unit.
        """
        if ray.get(self._desk.narrowed_for.remote(unit["name"])) > self._pool.stall_minutes * 60 * NARROWING_SHARE:
            raise _TakesTooLong
        is_new, failure = self._ask("begin_part", f"{unit['name']} rows {start} to {stop}", stop - start > 1)
        if is_new:
            self._try(lambda: self._worker.attempt(unit, start, stop))
        known: Record | None = failure
        return known

    def _try(self, work: Callable[[], Any]) -> Any:
        """What the work gives. A failure that ends the run raises `_RunEnds`, any other ends this process."""
        try:
            result = work()
        except Exception as error:  # travels to the driver, which raises it there
            failure = to_record(error, self._pool.name, self._pool.lower)
            told = self._desk.failed.remote(self._process, failure, is_out_of_memory(error))
            if ray.get(told) or ends_run(error):
                raise _RunEnds(failure) from error
            os._exit(1)
        self._desk.ended.remote(self._process)
        return result

    def _ask(self, question: str, *words: Any) -> Any:
        return ray.get(getattr(self._desk, question).remote(self._process, *words))


def _set_aside(unit: Unit, failure: Mapping[str, Any]) -> Result:
    return {"set_aside": {**failure, "unit": unit["name"]}}
