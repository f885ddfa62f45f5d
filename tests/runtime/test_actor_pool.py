"""Units over real Ray actors: each unit once, retries in fresh processes, failures by unit, stalls."""

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
import ray
from ray import cloudpickle

from s2l_ray.errors import DamagedError, S2LError
from s2l_ray.runtime.actor_pool import MAX_TASKS, run_units, units_per_task
from s2l_ray.runtime.contracts import Done, Failed, PoolOptions, Progress, RetryOptions
from s2l_ray.runtime.failures import UnitsFailed
from s2l_ray.runtime.session import connect

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import the tests


@dataclass(frozen=True)
class Number:
    """A unit: a number to square, or the name of a fault."""

    value: int | str

    @property
    def name(self) -> str:
        return f"unit {self.value}"


class Squares:
    """A worker that leaves a file for each construction, and fails on units that name a fault."""

    def __init__(self, notes: Path, fault: str = "") -> None:
        self._notes = notes
        (notes / f"started-{os.getpid()}").touch()
        if fault == "start":
            raise DamagedError("the model in bucket/model is damaged; build it again")
        self._faults: dict[str, Callable[[], None]] = {
            "disk": lambda: raises(OSError(28, "No space left on device", "/data/part.parquet")),
            "memory": lambda: raises(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")),
            "bug": lambda: raises(KeyError("missing")),
            "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
            "killed once": lambda: self._once("killed once") and os.kill(os.getpid(), signal.SIGKILL),
            "failed once": lambda: self._once("failed once") and raises(TimeoutError("the disk did not answer")),
            "hangs": lambda: time.sleep(600),
        }

    def __call__(self, unit: Number) -> int | str:
        if isinstance(unit.value, int):
            return unit.value**2
        self._faults[unit.value]()
        return unit.value

    def _once(self, fault: str) -> bool:
        try:
            (self._notes / fault).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def raises(error: Exception) -> None:
    raise error


def numbers(*values: int | str) -> list[Number]:
    return [Number(value) for value in values]


def options(retries: int = 0, stall_minutes: float = 5, **changes: object) -> PoolOptions:
    plain = PoolOptions(
        "squaring",
        "lower resources.score.tokens_per_batch",
        cpus=0.5,
        retry=RetryOptions(retries=retries, stall_minutes=stall_minutes),
    )
    return replace(plain, **changes)


def ends(named: re.Match[str] | None) -> bool:
    """Whether the process that a message names ends soon."""
    deadline = time.monotonic() + 20
    while named is not None and psutil.pid_exists(int(named[1])):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return named is not None


def test_each_unit_has_one_result_and_the_worker_is_constructed_once(ray_session: None, tmp_path: Path) -> None:
    results = run_units(numbers(*range(23)), Squares, options(units_per_task=4), {"notes": tmp_path})
    values = [one.value for one in results if isinstance(one, Done)]
    assert sorted(values) == [number**2 for number in range(23)]
    assert len(list(tmp_path.glob("started-*"))) == 1


@pytest.mark.slow
def test_units_that_fail_once_are_retried_and_others_are_listed_at_the_end(ray_session: None, tmp_path: Path) -> None:
    units = numbers(1, "killed", 2, "failed once", "bug", 3, "killed once", 4)
    values, failed, reported = [], [], list[Progress]()
    wanted = options(retries=1, units_per_task=2, kind="squares")
    with pytest.raises(UnitsFailed) as caught:
        for result in run_units(units, Squares, wanted, {"notes": tmp_path}, reported.append):
            if isinstance(result, Done):
                values.append(str(result.value))
            else:
                failed.append(result)
    assert sorted(values) == ["1", "16", "4", "9", "failed once", "killed once"]
    assert [(one.unit, one.failure.attempts) for one in failed] == [("unit killed", 2), ("unit bug", 2)]
    assert all(re.fullmatch(r"pid \d+ on .+", one.failure.process) for one in failed)
    assert sum(one.failures for one in reported if one.kind == "squares") == 2 + 1 + 2 + 1, "every attempt counts"
    message = str(caught.value)
    assert "unit killed" in message and "unit bug" in message and "KeyError" in message
    assert "__call__" in caught.value.details


@pytest.mark.slow
def test_as_many_failures_as_allowed_end_no_run(ray_session: None, tmp_path: Path) -> None:
    units, arguments = numbers("bug", "bug", "bug", "bug", 1), {"notes": tmp_path}
    results = list(run_units(units, Squares, options(allow_failures=4), arguments))
    assert len([one for one in results if isinstance(one, Failed)]) == 4
    with pytest.raises(UnitsFailed):
        list(run_units(units, Squares, options(allow_failures=3, done_before=9), arguments))


@pytest.mark.slow
def test_a_failing_majority_ends_the_run_early(ray_session: None, tmp_path: Path) -> None:
    results = []
    with pytest.raises(UnitsFailed):
        for result in run_units(numbers(7, *["bug"] * 9), Squares, options(), {"notes": tmp_path}):
            results.append(result)
    assert len(results) == 3


@pytest.mark.slow
def test_a_stalled_run_ends_and_names_the_process(ray_session: None, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(S2LError, match=r"pid \d+ on .*: unit hangs") as caught:
        list(run_units(numbers(1, "hangs", 2), Squares, options(stall_minutes=0.1), {"notes": tmp_path}))
    message = str(caught.value)
    assert "squaring" in message and "resources.stall_minutes" in message
    assert time.monotonic() - started < 60
    assert ends(re.search(r"pid (\d+)", message)), "the hanging worker is still running"


@pytest.mark.parametrize(
    ("fault", "message"), [("disk", "/data/part.parquet"), ("memory", "lower resources.score.tokens_per_batch")]
)
def test_failures_of_the_job_end_the_run_at_once(ray_session: None, tmp_path: Path, fault: str, message: str) -> None:
    with pytest.raises(S2LError, match=message):
        list(run_units(numbers(fault), Squares, options(retries=2), {"notes": tmp_path}))
    assert len(list(tmp_path.glob("started-*"))) == 1


def test_a_failing_constructor_raises_its_own_exception(ray_session: None, tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="bucket/model is damaged"):
        list(run_units(numbers(1), Squares, options(), {"notes": tmp_path, "fault": "start"}))


def test_an_existing_connection_stays(ray_session: None) -> None:
    with connect() as cluster:
        assert cluster.cpus >= 4
    assert ray.is_initialized()


def test_many_units_share_tasks() -> None:
    assert [units_per_task(units, 1) for units in (1, MAX_TASKS, MAX_TASKS + 1, 10 * MAX_TASKS)] == [1, 1, 2, 10]
    assert units_per_task(1000, 7) == 7
    assert units_per_task(10**9, 1) == units_per_task(1, 10**9) == 32
