"""Units of work over a pool of Ray Data actors.

In: units (JSON-able records), a worker class and its arguments, the size of the pool. Out: one result a unit, as they
finish. A worker is made once an actor and called once a unit; it writes its own file under a name that follows from the
unit, so that a unit which Ray runs again after losing a node does no harm. A row of the pipeline carries several units,
since a row costs tens of milliseconds.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray.data
from ray.exceptions import RayError

from s2l_ray.artifacts.errors import S2LError
from s2l_ray.runtime.failures import from_record, summary_of, to_record

Unit = dict[str, Any]
Result = dict[str, Any]
WorkerClass = Callable[..., Callable[[Unit], Result]]


@dataclass(frozen=True)
class Pool:
    """Actors: between `least` and `most` of them, with `cpus` and `gpus` each.

    `name` and `lower` stand in messages: what the actors do, and the key that makes one need less memory.
    """

    name: str
    lower: str
    least: int = 1
    most: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    arguments: dict[str, Any] = field(default_factory=dict)


class Actor:
    """What Ray Data starts: the worker, its units unpacked, its failures turned into records."""

    def __init__(self, worker: WorkerClass, pool: Pool) -> None:
        self._pool = pool
        self._worker: Callable[[Unit], Result] | None = None
        try:
            self._worker = worker(**pool.arguments)
        except Exception as error:  # travels to the driver, which raises it there
            self._failure = to_record(error, pool.name, pool.lower)

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        return {"results": json.dumps([self._do(unit) for unit in json.loads(row["units"])])}

    def _do(self, unit: Unit) -> Result:
        if self._worker is None:
            return {"failure": self._failure}
        try:
            return self._worker(unit)
        except Exception as error:  # travels to the driver, which raises it there
            return {"failure": to_record(error, self._pool.name, self._pool.lower)}


def run_units(units: Sequence[Unit], worker: WorkerClass, pool: Pool, bundle: int = 1) -> Iterator[Result]:
    """Results as they come, in no promised order; units are begun in theirs.

    Raises the first failure as an `S2LError`; what other workers finished by then stays in storage.
    """
    if not units:
        return
    rows = [{"units": json.dumps(units[start : start + bundle])} for start in range(0, len(units), bundle)]
    least, most = min(pool.least, len(rows)), min(pool.most, len(rows))
    strategy = ray.data.ActorPoolStrategy(min_size=least, max_size=most)
    finished = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Actor,  # type: ignore[arg-type]  # Ray's stubs know callables, its documentation classes
        fn_constructor_args=(worker, pool),
        compute=strategy,
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
    )
    yield from _results(finished, pool)


def _results(finished: ray.data.Dataset, pool: Pool) -> Iterator[Result]:
    try:
        for row in finished.iter_rows():
            for result in json.loads(row["results"]):
                if "failure" in result:
                    raise from_record(result["failure"])
                yield result
    except RayError as error:
        raise S2LError(f"{pool.name}: {summary_of(error)}; lower {pool.lower}, then run again") from error
