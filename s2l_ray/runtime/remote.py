"""One function on one node: where a matrix has to be in one place (the k-means fit, the selector).

In: a function and its arguments. Out: its result. A function whose node is lost is called again on another one, so it
has to be one that may be called twice: what it writes has one name and is put whole.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from s2l_ray.artifacts.errors import S2LError
from s2l_ray.runtime.failures import from_record, summary_of, to_record
from s2l_ray.runtime.room import Need

T = TypeVar("T")
AGAIN = 2
"""Calls after the first, where a node or a process was lost."""
ANYWHERE = Need("", "")


@ray.remote
class Place:
    """An actor that calls one function."""

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...], what: str, lower: str) -> Any:
        try:
            return {"value": function(*arguments)}
        except Exception as error:  # travels to the driver, which raises it there
            return {"failure": to_record(error, what, lower)}


def run_remote(function: Callable[..., T], *arguments: Any, what: str, lower: str, place: Need = ANYWHERE) -> T:
    """The function's result, computed in an actor that takes so much of a node.

    Raises its failure as an `S2LError`; `lower` names the key that makes it need less memory.
    """
    share = {"num_cpus": place.cpus, "num_gpus": place.gpus, "memory": place.memory or None}
    actor = Place.options(**share, max_restarts=AGAIN, max_task_retries=AGAIN).remote()  # type: ignore[attr-defined]
    try:
        answer = ray.get(actor.call.remote(function, arguments, what, lower))
    except RayError as error:
        raise S2LError(f"{what}: {summary_of(error)}; lower {lower} if memory ran out, then run again") from error
    finally:
        ray.kill(actor)
    if "failure" in answer:
        raise from_record(answer["failure"])
    return answer["value"]  # type: ignore[no-any-return]
