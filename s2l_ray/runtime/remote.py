"""One function on one node: where a matrix has to be in one place (the k-means fit, the selector).

In: a function and its arguments. Out: its result, while the driver stays free to show progress.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from s2l_ray.artifacts.errors import S2LError
from s2l_ray.runtime.failures import from_record, summary_of, to_record

T = TypeVar("T")


@ray.remote
class Place:
    """An actor that calls one function."""

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...], what: str, lower: str) -> Any:
        try:
            return {"value": function(*arguments)}
        except Exception as error:  # travels to the driver, which raises it there
            return {"failure": to_record(error, what, lower)}


def run_remote(
    function: Callable[..., T], *arguments: Any, what: str, lower: str, cpus: float = 1, gpus: float = 0
) -> T:
    """The function's result, computed in an actor with that many CPUs and GPUs.

    Raises its failure as an `S2LError`; `lower` names the key that makes it need less memory.
    """
    place = Place.options(num_cpus=cpus, num_gpus=gpus).remote()  # type: ignore[attr-defined]
    try:
        answer = ray.get(place.call.remote(function, arguments, what, lower))
    except RayError as error:
        raise S2LError(f"{what}: {summary_of(error)}; lower {lower}, then run again") from error
    finally:
        ray.kill(place)
    if "failure" in answer:
        raise from_record(answer["failure"])
    return answer["value"]  # type: ignore[no-any-return]
