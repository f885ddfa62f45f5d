"""The actor that Ray Data starts for a pool: a worker, its units unpickled, its exceptions turned into records.

A failed unit costs its process, whose state may be corrupt (a failed CUDA assertion invalidates the context): the
process exits, Ray restarts the actor and calls it again with the same row. Failure counts therefore live in the unit
tracker and not here.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import cloudpickle

from s2l_ray.runtime.contracts import ActorHandle, Done, Failed, Failure, PoolOptions, Unit
from s2l_ray.runtime.failures import ends_run, failure_from_exception, is_out_of_memory
from s2l_ray.runtime.unit_tracker import STARTUP
from s2l_ray.runtime.worker_process import arm_exit_watchdog, this_process


@dataclass(frozen=True)
class RunFailed:
    """A failure that ends the run at once."""

    failure: Failure


Outcome = Done[Any] | Failed | RunFailed


class UnitActor:
    """A worker that takes pickled rows of units. Returns one `Outcome` for each unit."""

    def __init__(
        self,
        worker: Callable[..., Callable[[Any], Any]],
        arguments: Mapping[str, object],
        options: PoolOptions,
        tracker: ActorHandle,
    ) -> None:
        self._options = options
        self._tracker = tracker
        self._process = this_process()
        self._worker: Callable[[Any], Any] | None = None
        arm_exit_watchdog()
        tracker.register.remote(ray.get_runtime_context().current_actor)
        try:
            self._failure = self._start(f"{STARTUP} {self._process.actor}")
            if self._failure is None:
                self._worker = worker(**arguments)
                tracker.finish.remote(self._process)
            else:
                message = f"{options.name}: no worker could be started: {self._failure.message}"
                self._failure = replace(self._failure, message=message)
        except Exception as error:  # raised in the driver
            self._failure = failure_from_exception(error, options.name, options.memory_hint)

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        return {"outcomes": cloudpickle.dumps([self._run(unit) for unit in cloudpickle.loads(row["units"])])}

    def _run(self, unit: Unit) -> Outcome:
        if self._worker is None:
            assert self._failure is not None
            return RunFailed(self._failure)
        failure = self._start(unit.name)
        if failure is not None:
            return Failed(unit.name, failure)
        try:
            value = self._worker(unit)
        except Exception as error:  # raised in the driver
            failure = failure_from_exception(error, self._options.name, self._options.memory_hint)
            recorded = self._tracker.fail.remote(self._process, failure, is_out_of_memory(error))
            if ray.get(recorded) or ends_run(error):
                return RunFailed(failure)
            os._exit(1)
        self._tracker.finish.remote(self._process)
        return Done(value)

    def _start(self, unit: str) -> Failure | None:
        failure: Failure | None = ray.get(self._tracker.start.remote(self._process, unit))
        return failure
