"""Units over real Ray actors: every unit once, failures by their own names, a cluster that was there stays."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import cloudpickle

from s2l_ray.artifacts.errors import DamagedError, S2LError
from s2l_ray.runtime.failures import WorkerError, from_record, to_record
from s2l_ray.runtime.remote import run_remote
from s2l_ray.runtime.session import connect
from s2l_ray.runtime.units import Pool, run_units

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers do not find the tests


class Squares:
    """A worker that notes how often it was made, and fails where it is told to."""

    def __init__(self, notes: str, fail: str = "") -> None:
        self._notes = Path(notes)
        (self._notes / f"made-{os.getpid()}").touch()
        if fail == "making":
            raise DamagedError("the model in bucket/model is damaged; build it again")

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        number = unit["number"]
        if number == "disk":
            raise OSError(28, "No space left on device", "/data/part.parquet")
        if number == "memory":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if number == "bug":
            return {"square": unit["missing"]}
        if number == "once" and not (self._notes / "died").exists():
            (self._notes / "died").touch()
            os._exit(1)
        return {"square": number if isinstance(number, str) else number**2}


def pool(notes: Path, **arguments: Any) -> Pool:
    return Pool("squaring", "resources.score.tokens_per_batch", cpus=0.5, arguments={"notes": str(notes), **arguments})


def test_every_unit_has_one_result_and_the_worker_is_made_once(ray_session: None, tmp_path: Path) -> None:
    units = [{"number": number} for number in range(23)]
    results = [one["square"] for one in run_units(units, Squares, pool(tmp_path), bundle=4)]
    assert sorted(results) == [number**2 for number in range(23)]
    assert len(list(tmp_path.glob("made-*"))) == 1


def test_an_actor_that_dies_is_replaced_and_its_units_done_again(ray_session: None, tmp_path: Path) -> None:
    units = [{"number": "once"}, {"number": 3}]
    assert sorted(str(one["square"]) for one in run_units(units, Squares, pool(tmp_path))) == ["9", "once"]
    assert len(list(tmp_path.glob("made-*"))) == 2


@pytest.mark.parametrize(
    ("number", "message"),
    [
        ("disk", "squaring: no space left on /data/part.parquet; free some and run again"),
        ("memory", "squaring: out of memory .*; lower resources.score.tokens_per_batch"),
        ("bug", "squaring: KeyError: 'missing'"),
    ],
)
def test_failures_of_a_unit_reach_the_driver(ray_session: None, tmp_path: Path, number: str, message: str) -> None:
    with pytest.raises(S2LError, match=message) as caught:
        list(run_units([{"number": number}], Squares, pool(tmp_path)))
    if number == "bug":
        assert isinstance(caught.value, WorkerError) and "__call__" in caught.value.details


def test_a_worker_that_cannot_be_made_says_why_under_its_own_name(ray_session: None, tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="bucket/model is damaged"):
        list(run_units([{"number": 1}], Squares, pool(tmp_path, fail="making")))


def test_a_record_keeps_kind_and_message() -> None:
    for error in (DamagedError("a: damaged"), S2LError("b"), ValueError("c")):
        try:
            raise error
        except Exception as raised:
            back = from_record(to_record(raised, "train", "resources.train.micro_batch"))
        assert isinstance(back, type(error) if isinstance(error, S2LError) else WorkerError)
        assert str(error) in str(back)


def divide(one: float, other: float) -> float:
    return one / other


def test_one_function_on_one_node(ray_session: None) -> None:
    assert run_remote(divide, 1, 4, what="dividing", lower="cluster.max_fit_rows") == 0.25
    with pytest.raises(WorkerError, match="dividing: ZeroDivisionError"):
        run_remote(divide, 1, 0, what="dividing", lower="cluster.max_fit_rows")


def test_a_cluster_that_was_there_before_stays(ray_session: None) -> None:
    with connect() as here:
        assert here.cpus >= 4
    assert ray.is_initialized()
