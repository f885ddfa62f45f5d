"""Run one function on one node, for work on a whole matrix (the k-means fit, the selector).

The function may be called again after its node was lost or after a failure that a retry can change, so it must be
idempotent: its output has a fixed name and is written whole. A function without progress for too long is ended.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from s2l_ray.runtime.contracts import Done, Failed, RemoteTask, Report, ignore_progress
from s2l_ray.runtime.failures import engine_error, exception_from_failure
from s2l_ray.runtime.monitor import start_monitor, watch
from s2l_ray.runtime.unit_actor import UnitActor

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """The unit of a one-node task."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[object, ...]

    def run(self) -> Any:
        return self.function(*self.arguments)


def run_on_one_node(
    task: RemoteTask, function: Callable[..., T], *arguments: object, report: Report = ignore_progress
) -> T:
    """The result of `function(*arguments)`, called in an actor that takes `task.request` of one node.

    report: called with progress, with a warning before a retry, and with the usage; an exception in it ends the call.
    Raises the failure of the last attempt as an `S2LError`.
    """
    monitor = start_monitor(task)
    # Restarts are bounded by the monitor, which counts attempts and lost nodes.
    resources = {"num_cpus": task.request.cpus, "num_gpus": task.request.gpus, "memory": task.request.memory or None}
    actor_class: Any = ray.remote(max_restarts=-1, max_task_retries=-1)(UnitActor)
    actor = actor_class.options(**resources).remote(lambda: Call.run, {}, task, monitor, alone=True)
    try:
        reference = actor.run.remote(Call(task.name, function, arguments))
        watch(monitor, task, lambda seconds: not ray.wait([reference], timeout=seconds)[0], report)
        result: Done[T] | Failed = ray.get(reference)
    except RayError as error:
        raise engine_error(error, task) from error
    finally:
        ray.kill(actor)
        ray.kill(monitor)  # type: ignore[arg-type]
    if isinstance(result, Failed):
        raise exception_from_failure(result.failure)
    return result.value
