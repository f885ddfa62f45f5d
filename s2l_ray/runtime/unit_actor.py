"""The actor of pools and one-node tasks: a worker, its units, and its exceptions turned into records.

A failed unit costs its process, whose state may be corrupt (a failed CUDA assertion invalidates the context): the
process exits, Ray restarts the actor and calls it again with the same units. Attempts are counted by the monitor.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import ray
from ray import cloudpickle

from s2l_ray.runtime.contracts import ActorHandle, Done, Failed, Failure, RemoteTask, Unit
from s2l_ray.runtime.failures import failure_from_exception
from s2l_ray.runtime.worker_process import join_monitor, usage_of

Worker = Callable[[Any], Any]


class UnitActor:
    """A worker, constructed by `make_worker(**arguments)` for the first unit. alone: it is no actor of a pool."""

    def __init__(
        self,
        make_worker: Callable[..., Worker],
        arguments: Mapping[str, object],
        task: RemoteTask,
        monitor: ActorHandle,
        alone: bool = False,
    ) -> None:
        self._make_worker, self._arguments = make_worker, arguments
        self._task, self._monitor, self._alone = task, monitor, alone
        self._process = join_monitor(monitor)
        self._worker: Worker | None = None
        self._units, self._first_seconds, self._later_seconds = 0, 0.0, 0.0

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        """Results of a row of Ray Data, one for each of its pickled units."""
        results: list[Done[Any] | Failed] = []
        for unit in cloudpickle.loads(row["units"]):  # pickled by the driver, never stored
            results.append(result := self.run(unit))
            if isinstance(result, Failed) and result.failure.final:
                break  # the driver ends the run
        return {"results": cloudpickle.dumps(results)}

    def run(self, unit: Unit) -> Done[Any] | Failed:
        """The result of one unit. A `Failed` with a final failure ends the run."""
        failure: Failure | None = ray.get(self._monitor.start.remote(self._process, unit.name))
        if failure is not None:
            return Failed(unit.name, failure)
        try:
            if self._worker is None:
                self._worker = self._make_worker(**self._arguments)
            began = time.monotonic()
            value = self._worker(unit)
        except Exception as error:  # raised in the driver
            failure = failure_from_exception(error, self._task)
            if ray.get(self._monitor.fail.remote(self._process, failure)) or self._worker is None:
                return Failed(unit.name, replace(failure, final=True))
            os._exit(1)
        seconds = None if self._alone else self._seconds_of_units(time.monotonic() - began)
        ray.get(self._monitor.finish.remote(self._process, usage_of(self._process, seconds)))
        return Done(unit.name, value)

    def _seconds_of_units(self, seconds: float) -> float:
        """Seconds of all units so far, after one of `seconds`.

        A worker may load its model with its first unit, which is therefore counted as long as the others on average.
        """
        self._units += 1
        if self._units == 1:
            self._first_seconds = seconds
            return seconds
        self._later_seconds += seconds
        mean = self._later_seconds / (self._units - 1)
        return self._later_seconds + min(self._first_seconds, mean)
