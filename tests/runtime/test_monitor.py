"""Failures are charged to the unit that was in progress; lost nodes are not, up to a limit."""

import time

from s2l_ray.runtime.contracts import Failure, Progress, RemoteTask, RetryOptions
from s2l_ray.runtime.monitor import MAX_NODES_LOST, Monitor
from s2l_ray.runtime.worker_process import Process

FAILURE = Failure("ValueError", "no")
OUT_OF_MEMORY = Failure("S2LError", "no", out_of_memory=True)


def process(pid: int, actor: str = "a", node: str = "n") -> Process:
    return Process(actor, node, "host", pid)


def monitor_of(retries: int = 1, done_before: int = 0, alive_nodes: str = "n") -> Monitor:
    task = RemoteTask("clusters", "dividing", "divide less", retry=RetryOptions(retries))
    return Monitor(task, done_before, is_alive=lambda node: node == alive_nodes)


def test_a_dead_process_fails_its_active_unit_and_no_other() -> None:
    monitor = monitor_of(retries=1)
    for pid in (1, 2):
        assert monitor.start(process(pid), "innocent") is None
        monitor.finish(process(pid))
        assert monitor.start(process(pid), "faulty") is None
    assert monitor.start(process(3), "innocent") is None
    monitor.finish(process(3))
    failure = monitor.start(process(3), "faulty")
    assert failure is not None and failure.attempts == 2 and failure.process == str(process(2))
    assert monitor.start(process(3), "innocent") is None


def test_an_exception_counts_as_an_attempt_and_is_returned_with_its_process() -> None:
    monitor = monitor_of(retries=1, done_before=1)
    for pid in (1, 2):
        assert monitor.start(process(pid), "unit") is None
        assert not monitor.fail(process(pid), FAILURE)
    failure = monitor.start(process(3), "unit")
    assert failure == Failure("ValueError", "no", process=str(process(2)), attempts=2)


def test_lost_nodes_are_no_failures_up_to_a_limit() -> None:
    monitor = monitor_of(retries=0)
    for pid in range(MAX_NODES_LOST + 1):
        assert monitor.start(process(pid, node="lost"), "unit") is None
    failure = monitor.start(process(99), "unit")
    assert failure is not None and failure.attempts == MAX_NODES_LOST + 1
    assert monitor.start(process(99), "another") is None


def test_out_of_memory_ends_the_run_only_before_the_first_complete_unit() -> None:
    monitor = monitor_of()
    assert monitor.start(process(1), "first") is None
    assert monitor.fail(process(1), OUT_OF_MEMORY)
    assert monitor.start(process(1), "second") is None
    monitor.finish(process(1))
    assert monitor.start(process(1), "third") is None
    assert not monitor.fail(process(1), OUT_OF_MEMORY)
    resumed = monitor_of(done_before=1)
    resumed.start(process(1), "first")
    assert not resumed.fail(process(1), OUT_OF_MEMORY)


def test_a_final_failure_ends_the_run_in_any_case() -> None:
    monitor = monitor_of(retries=9, done_before=9)
    monitor.start(process(1), "unit")
    assert monitor.fail(process(1), Failure("DamagedError", "no", final=True))


def test_active_units_are_listed_by_process() -> None:
    monitor = monitor_of()
    monitor.start(process(1, "a"), "one")
    monitor.start(process(2, "b"), "two")
    monitor.start(process(3, "a"), "three")
    monitor.finish(process(2, "b"))
    assert [(active.process.pid, active.unit) for active in monitor.status().active] == [(3, "three")]


def test_progress_is_that_of_the_active_unit_and_resets_the_idle_time() -> None:
    monitor = monitor_of()
    monitor.start(process(1, "a"), "one")
    monitor.start(process(2, "b"), "two")
    idle = monitor.status().idle_seconds
    time.sleep(0.05)
    assert monitor.status().idle_seconds >= idle + 0.05
    assert not monitor.progress(process(2, "b"), Progress("", 3, 8, "passes"))
    assert monitor.status().idle_seconds < 0.05
    assert monitor.status().progress == Progress("", 3, 8, "passes")
    first, second = monitor.status().active
    assert "3 of 8 passes" in str(second) and "passes" not in str(first)


def test_a_stop_is_the_reply_to_progress() -> None:
    monitor = monitor_of()
    monitor.start(process(1), "rank 0")
    monitor.stop()
    assert monitor.progress(process(1), Progress("", 1, 2, "steps"))
