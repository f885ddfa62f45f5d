"""Units over real Ray actors: every unit once, failures by their own names, a cluster that was there stays."""

import os
import re
import signal
import sys
import time
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import pytest
import ray
from ray import cloudpickle

from s2l_ray.errors import DamagedError, S2LError
from s2l_ray.runtime.actor_pool import run_units
from s2l_ray.runtime.failures import UnitsSetAside, WorkerError, from_record, to_record
from s2l_ray.runtime.placement import Need
from s2l_ray.runtime.remote_task import Said, Task, run_remote, telling
from s2l_ray.runtime.session import connect
from s2l_ray.runtime.unit_actor import Pool

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
        if number == "killed" or (number == "killed once" and self._first(number)):
            os.kill(os.getpid(), signal.SIGKILL)
        if number == "failed once" and self._first(number):
            raise TimeoutError("the disk did not answer")
        if number == "hangs":
            time.sleep(600)
        return {"square": number if isinstance(number, str) else number**2}

    def _first(self, number: str) -> bool:
        try:
            (self._notes / number).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class Sums:
    """A worker of units with rows: the sum of a unit's numbers, which dies of "killed" and fails on other words."""

    def __call__(self, unit: dict[str, Any], without: Mapping[int, str] = MappingProxyType({})) -> dict[str, Any]:
        return {
            "sum": self._sum([row for at, row in enumerate(unit["numbers"]) if at not in without]),
            "without": dict(without),
        }

    def rows(self, unit: dict[str, Any]) -> list[str]:
        self._sum(unit["unreadable"])
        return [f"id-{row}" for row in unit["numbers"]]

    def attempt(self, unit: dict[str, Any], start: int, stop: int) -> None:
        self._sum(unit["unreadable"])
        self._sum(unit["numbers"][start:stop])

    def _sum(self, numbers: list[Any]) -> int:
        if "killed" in numbers:
            os.kill(os.getpid(), signal.SIGKILL)
        return sum(numbers)


def units_of(*numbers: Any) -> list[dict[str, Any]]:
    return [{"name": f"unit {number}", "number": number} for number in numbers]


def pool(notes: Path, retries: int = 0, stall_minutes: float = 5, **arguments: Any) -> Pool:
    return Pool(
        name="squaring",
        lower="resources.score.tokens_per_batch",
        cpus=0.5,
        arguments={"notes": str(notes), **arguments},
        retries=retries,
        stall_minutes=stall_minutes,
    )


def test_every_unit_has_one_result_and_the_worker_is_made_once(ray_session: None, tmp_path: Path) -> None:
    results = [one["square"] for one in run_units(units_of(*range(23)), Squares, pool(tmp_path), bundle=4)]
    assert sorted(results) == [number**2 for number in range(23)]
    assert len(list(tmp_path.glob("made-*"))) == 1


def test_what_failed_once_is_done_and_what_fails_in_every_try_is_named_at_the_end(
    ray_session: None, tmp_path: Path
) -> None:
    units = units_of(1, "killed", 2, "failed once", "bug", 3, "killed once", 4)
    squares, aside = [], []
    with pytest.raises(UnitsSetAside) as caught:
        for result in run_units(units, Squares, pool(tmp_path, retries=1), bundle=2):
            (aside if "set_aside" in result else squares).append(result.get("square", result))
    assert sorted(map(str, squares)) == ["1", "16", "4", "9", "failed once", "killed once"]
    assert [one["set_aside"]["unit"] for one in aside] == ["unit killed", "unit bug"]
    said = str(caught.value)
    assert "2 units failed in every try, 6 are done" in said
    assert re.search(r"unit killed: its process died: .* \(last on pid \d+ on .*, 2 tries\)", said)
    assert re.search(r"unit bug: squaring: KeyError: 'missing' \(2 tries\)", said)
    assert "__call__" in caught.value.details


def test_a_run_ends_once_most_units_fail(ray_session: None, tmp_path: Path) -> None:
    done = []
    with pytest.raises(UnitsSetAside, match="3 units failed in every try, 1 are done"):
        for result in run_units(units_of(7, *["bug"] * 9), Squares, pool(tmp_path)):
            done.append(result)
    assert len(done) == 3


def test_a_run_that_stands_still_ends_and_says_what_its_workers_did(ray_session: None, tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(S2LError, match=r"pid \d+ on .*: unit hangs for 0.\d minutes") as caught:
        list(run_units(units_of(1, "hangs", 2), Squares, pool(tmp_path, stall_minutes=0.1)))
    said = str(caught.value)
    assert "no result for 0.1 minutes" in said and "resources.stall_minutes" in said
    assert time.monotonic() - begun < 60
    assert ends(re.search(r"pid (\d+)", said)), "the worker that hangs was left behind"


def ends(named: re.Match[str] | None) -> bool:
    """Whether the process that a message names is gone soon."""
    deadline = time.monotonic() + 20
    while named is not None and psutil.pid_exists(int(named[1])):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return named is not None


@pytest.mark.slow
def test_a_unit_is_done_without_the_rows_at_fault_or_they_are_named(ray_session: None, tmp_path: Path) -> None:
    bad = {0: [*range(40), "killed", *range(40), "bug"], 1: [4, 5], 2: ["bug", 6]}
    units = [
        {"name": f"unit {shard}", "shard": shard, "numbers": numbers, "unreadable": ["killed"] * (shard == 2)}
        for shard, numbers in bad.items()
    ]
    rows = replace(pool(tmp_path), arguments={}, by_row=True, goes_on=True)
    results = list(run_units(units, Sums, rows))
    (aside,) = [one["set_aside"] for one in results if "set_aside" in one]
    assert aside["unit"] == "unit 2" and "rows" not in aside
    whole, part = sorted((one for one in results if "sum" in one), key=lambda one: len(one["without"]))
    assert whole["sum"] == 9 and part["sum"] == 2 * sum(range(40))
    assert list(part["without"]) == ["40", "81"]
    assert part["without"]["40"].startswith("its process died") and "TypeError" in part["without"]["81"]
    with pytest.raises(UnitsSetAside, match=r"unit 0: row 40 \(example id-killed\): .*; row 81 .*TypeError"):
        list(run_units(units, Sums, replace(rows, goes_on=False)))


@pytest.mark.parametrize(
    ("number", "message"),
    [
        ("disk", "squaring: no space left on /data/part.parquet; free some and run again"),
        ("memory", "squaring: out of memory .*; lower resources.score.tokens_per_batch"),
    ],
)
def test_failures_of_the_job_end_the_run_at_once(ray_session: None, tmp_path: Path, number: str, message: str) -> None:
    with pytest.raises(S2LError, match=message):
        list(run_units(units_of(number), Squares, pool(tmp_path, retries=2)))
    assert len(list(tmp_path.glob("made-*"))) == 1


def test_a_worker_that_cannot_be_made_says_why_under_its_own_name(ray_session: None, tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="bucket/model is damaged"):
        list(run_units(units_of(1), Squares, pool(tmp_path, fail="making")))


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


def fails_once(note: Path) -> str:
    if not note.exists():
        note.touch()
        raise TimeoutError("the store did not answer")
    return "done"


def count_and_hang(seconds: list[float]) -> str:
    for _ in telling(seconds, "naps"):
        time.sleep(_)
    return "woke up"


def is_wrong(note: Path) -> None:
    note.write_text(note.read_text() + "called ")
    raise DamagedError("the matrix is damaged")


def value_of(work: Generator[Said | str, None, Any]) -> tuple[Any, list[Any]]:
    said: list[Any] = []
    while True:
        try:
            said.append(next(work))
        except StopIteration as end:
            return end.value, said


def test_one_function_on_one_node(ray_session: None, tmp_path: Path) -> None:
    task = Task("dividing", "cluster.max_fit_rows")
    assert value_of(run_remote(divide, 1, 4, task=task)) == (0.25, [])
    with pytest.raises(WorkerError, match="dividing: ZeroDivisionError"):
        value_of(run_remote(divide, 1, 0, task=task))
    with pytest.raises(WorkerError, match="dividing: TimeoutError"):
        value_of(run_remote(fails_once, tmp_path / "first", task=task))
    value, said = value_of(run_remote(fails_once, tmp_path / "second", task=replace(task, retries=1)))
    assert value == "done" and said == ["dividing: TimeoutError: the store did not answer; trying again"]
    (tmp_path / "calls").write_text("")
    with pytest.raises(DamagedError):
        value_of(run_remote(is_wrong, tmp_path / "calls", task=replace(task, retries=2)))
    assert (tmp_path / "calls").read_text() == "called ", "another try would end the same way"


@pytest.mark.slow
def test_a_function_is_ended_when_it_tells_nothing_new_and_not_while_it_does(ray_session: None) -> None:
    task = Task("napping", "cluster.max_fit_rows", stall_minutes=6 / 60)
    value, said = value_of(run_remote(count_and_hang, [2.5] * 4, task=task))
    assert value == "woke up" and len(said) >= 3 and {(one.total, one.unit) for one in said} == {(4, "naps")}
    begun = time.monotonic()
    with pytest.raises(
        S2LError, match=r"napping: nothing new .* at 1 of 2 naps \(pid \d+ on .*stall_minutes"
    ) as caught:
        value_of(run_remote(count_and_hang, [0.0, 600.0], task=task))
    assert time.monotonic() - begun < 60
    assert ends(re.search(r"pid (\d+)", str(caught.value))), "the function that hangs was left behind"


def test_a_function_without_a_node_is_no_function_that_hangs(ray_session: None) -> None:
    place = Need("", "", gpus=3.0)
    task = Task("waiting", "cluster.max_fit_rows", place, stall_minutes=1 / 60, wait_minutes=4 / 60)
    begun = time.monotonic()
    with pytest.raises(S2LError, match=r"nothing new for 0\.066\d* minutes, .* no room for 1 CPUs, 3 GPUs"):
        value_of(run_remote(divide, 1, 4, task=task))
    assert time.monotonic() - begun > 4


def test_a_cluster_that_was_there_before_stays(ray_session: None) -> None:
    with connect() as here:
        assert here.cpus >= 4
    assert ray.is_initialized()
