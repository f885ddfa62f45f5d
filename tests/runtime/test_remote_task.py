"""One function on one node: results, retries, progress, stalls, interruption."""

import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ray import cloudpickle

from s2l_ray.errors import DamagedError, LockedError, S2LError
from s2l_ray.runtime.contracts import Progress, RemoteTask, ResourceRequest, RetryOptions
from s2l_ray.runtime.failures import WorkerError
from s2l_ray.runtime.remote_task import run_on_one_node
from s2l_ray.runtime.worker_process import track
from tests.runtime.test_actor_pool import ends

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import the tests


def task(request: ResourceRequest = ResourceRequest(), **retry: float) -> RemoteTask:  # noqa: B008
    options = replace(RetryOptions(), **retry)
    return RemoteTask("clusters", "dividing", "lower cluster.max_fit_rows", request, options)


def divide(one: float, other: float) -> float:
    return one / other


def fails_once(note: Path) -> str:
    if not note.exists():
        note.touch()
        raise TimeoutError("the store did not answer")
    return "done"


def sleep_in_steps(seconds: list[float], note: Path | None = None) -> str:
    if note is not None:
        note.write_text(str(os.getpid()))
    for step in track(seconds, "naps"):
        time.sleep(step)
    return "woke up"


def is_wrong(note: Path) -> None:
    note.write_text(note.read_text() + "called ")
    raise DamagedError("the matrix is damaged")


@pytest.mark.slow
def test_results_retries_and_failures(ray_session: None, tmp_path: Path) -> None:
    reported: list[Progress] = []
    assert run_on_one_node(task(), divide, 1, 4, report=reported.append) == 0.25
    with pytest.raises(WorkerError, match="ZeroDivisionError"):
        run_on_one_node(task(), divide, 1, 0)
    with pytest.raises(WorkerError, match="TimeoutError"):
        run_on_one_node(task(), fails_once, tmp_path / "first")
    assert all(one.usage for one in reported)  # the function reports nothing itself
    value = run_on_one_node(task(retries=1), fails_once, tmp_path / "second", report=reported.append)
    (warned,) = [one for one in reported if one.warning]
    assert value == "done" and warned.kind == "clusters" and "the store did not answer" in warned.warning


def test_a_final_failure_is_not_retried(ray_session: None, tmp_path: Path) -> None:
    (tmp_path / "calls").write_text("")
    with pytest.raises(DamagedError):
        run_on_one_node(task(retries=2), is_wrong, tmp_path / "calls")
    assert (tmp_path / "calls").read_text() == "called "


@pytest.mark.parametrize("error", [KeyboardInterrupt, LockedError])
def test_an_exception_of_the_report_ends_the_remote_process(
    ray_session: None, tmp_path: Path, error: Callable[[str], BaseException]
) -> None:
    def interrupt(progress: Progress) -> None:
        raise error("stop")

    note = tmp_path / "pid"
    with pytest.raises((KeyboardInterrupt, LockedError)):
        run_on_one_node(task(), sleep_in_steps, [600.0], note, report=interrupt)
    assert ends(re.search(r"(\d+)", note.read_text())), "the function is still running"


@pytest.mark.slow
def test_a_stalled_function_ends_and_a_slow_one_does_not(ray_session: None) -> None:
    reported: list[Progress] = []
    short = task(stall_minutes=6 / 60)
    assert run_on_one_node(short, sleep_in_steps, [2.5] * 4, report=reported.append) == "woke up"
    positions = [one for one in reported if not one.usage]
    assert len(positions) >= 3 and {(one.kind, one.total, one.unit) for one in positions} == {("clusters", 4, "naps")}
    started = time.monotonic()
    with pytest.raises(S2LError, match=r"pid \d+ on .* 1 of 2 naps") as caught:
        run_on_one_node(short, sleep_in_steps, [0.0, 600.0])
    assert "resources.stall_minutes" in str(caught.value)
    assert time.monotonic() - started < 60
    assert ends(re.search(r"pid (\d+)", str(caught.value))), "the function is still running"


@pytest.mark.slow
def test_waiting_for_a_node_is_no_stall(ray_session: None) -> None:
    waiting = task(ResourceRequest(gpus=3.0), stall_minutes=1 / 60, wait_minutes=4 / 60)
    started = time.monotonic()
    with pytest.raises(S2LError, match=r"3 GPUs"):
        run_on_one_node(waiting, divide, 1, 4)
    assert time.monotonic() - started > 4
