"""Failures are charged to the unit that was in progress; lost nodes are not, up to a limit."""

from s2l_ray.runtime.contracts import Failure
from s2l_ray.runtime.unit_tracker import MAX_NODES_LOST, STARTUP, UnitTracker
from s2l_ray.runtime.worker_process import Process

FAILURE = Failure("ValueError", "no")


def process(pid: int, actor: str = "a", node: str = "n") -> Process:
    return Process(actor, node, "host", pid)


def tracker_of(retries: int = 1, done_before: int = 0, alive_nodes: str = "n") -> UnitTracker:
    return UnitTracker(retries, done_before, is_alive=lambda node: node == alive_nodes)


def test_a_dead_process_fails_its_active_unit_and_no_other() -> None:
    tracker = tracker_of(retries=1)
    for pid in (1, 2):
        assert tracker.start(process(pid), "innocent") is None
        tracker.finish(process(pid))
        assert tracker.start(process(pid), "faulty") is None
    assert tracker.start(process(3), "innocent") is None
    tracker.finish(process(3))
    failure = tracker.start(process(3), "faulty")
    assert failure is not None and failure.attempts == 2 and failure.process == str(process(2))
    assert tracker.start(process(3), "innocent") is None


def test_an_exception_counts_as_an_attempt_and_is_returned_with_its_process() -> None:
    tracker = tracker_of(retries=1, done_before=1)
    for pid in (1, 2):
        assert tracker.start(process(pid), "unit") is None
        assert not tracker.fail(process(pid), FAILURE, out_of_memory=False)
    failure = tracker.start(process(3), "unit")
    assert failure == Failure("ValueError", "no", process=str(process(2)), attempts=2)


def test_lost_nodes_are_no_failures_up_to_a_limit() -> None:
    tracker = tracker_of(retries=0)
    for pid in range(MAX_NODES_LOST + 1):
        assert tracker.start(process(pid, node="lost"), "unit") is None
    failure = tracker.start(process(99), "unit")
    assert failure is not None and failure.attempts == MAX_NODES_LOST + 1
    assert tracker.start(process(99), "another") is None


def test_a_worker_that_dies_in_every_start_is_not_started_again() -> None:
    tracker = tracker_of(retries=1)
    answers = [tracker.start(process(pid), f"{STARTUP} a") for pid in range(3)]
    assert answers[:2] == [None, None] and answers[2] is not None
    assert tracker.start(process(9, actor="b"), f"{STARTUP} b") is None


def test_out_of_memory_ends_the_run_only_before_the_first_complete_unit() -> None:
    tracker = tracker_of()
    tracker.start(process(1), f"{STARTUP} a")
    tracker.finish(process(1))
    assert tracker.start(process(1), "first") is None
    assert tracker.fail(process(1), FAILURE, out_of_memory=True)
    assert tracker.start(process(1), "second") is None
    tracker.finish(process(1))
    assert tracker.start(process(1), "third") is None
    assert not tracker.fail(process(1), FAILURE, out_of_memory=True)
    resumed = tracker_of(done_before=1)
    resumed.start(process(1), "first")
    assert not resumed.fail(process(1), FAILURE, out_of_memory=True)


def test_active_units_are_listed_by_process() -> None:
    tracker = tracker_of()
    tracker.start(process(1, "a"), "one")
    tracker.start(process(2, "b"), "two")
    tracker.start(process(3, "a"), "three")
    tracker.finish(process(2, "b"))
    assert [(active.process.pid, active.unit) for active in tracker.active()] == [(3, "three")]
