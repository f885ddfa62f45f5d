"""The desk: failures are counted against the unit that had them, and lost nodes against nobody for long."""

from s2l_ray.runtime.unit_tracker import NODES_LOST, STARTING, Ledger, Process

FAILURE = {"kind": "ValueError", "message": "no", "details": ""}


def process(pid: int, actor: str = "a", node: str = "n") -> Process:
    return Process(actor, node, "host", pid)


def test_a_process_that_dies_fails_the_unit_it_had_in_hand_and_no_other() -> None:
    desk = Ledger(retries=1, finished=0, is_alive=lambda node: True)
    for pid in (1, 2):
        assert desk.begin(process(pid), "innocent") is None
        desk.ended(process(pid))
        assert desk.begin(process(pid), "bad") is None
    assert desk.begin(process(3), "innocent") is None
    desk.ended(process(3))
    aside = desk.begin(process(3), "bad")
    assert aside is not None and aside["tries"] == "2" and "pid 2 on host" in aside["where"]
    assert desk.begin(process(3), "innocent") is None


def test_a_lost_node_is_no_failure_of_its_unit_unless_it_is_lost_every_time() -> None:
    desk = Ledger(retries=0, finished=0, is_alive=lambda node: node == "whole")
    for pid in range(NODES_LOST + 1):
        assert desk.begin(process(pid, node="lost"), "unit") is None
    aside = desk.begin(process(99, node="whole"), "unit")
    assert aside is not None and "node" in aside["message"]
    assert desk.begin(process(99, node="whole"), "another") is None


def test_a_worker_that_dies_whenever_it_is_made_is_made_no_more() -> None:
    desk = Ledger(retries=1, finished=0, is_alive=lambda node: True)
    answers = [desk.begin(process(pid), f"{STARTING} a") for pid in range(3)]
    assert answers[:2] == [None, None] and answers[2] is not None
    assert desk.begin(process(9, actor="b"), f"{STARTING} b") is None


def test_memory_that_no_unit_fitted_into_ends_the_run() -> None:
    desk = Ledger(retries=1, finished=0, is_alive=lambda node: True)
    assert desk.begin(process(1), "first") is None
    assert desk.failed(process(1), FAILURE, out_of_memory=True)
    assert desk.begin(process(1), "second") is None
    desk.ended(process(1))
    assert desk.begin(process(1), "third") is None
    assert not desk.failed(process(1), FAILURE, out_of_memory=True)


def test_what_workers_do_is_known() -> None:
    desk = Ledger(retries=1, finished=0, is_alive=lambda node: True)
    desk.begin(process(1, "a"), "one")
    desk.begin(process(2, "b"), "two")
    desk.begin(process(3, "a"), "three")
    desk.ended(process(2, "b"))
    assert [(work.process.pid, work.unit) for work in desk.doing()] == [(3, "three")]


def test_of_a_part_it_is_known_what_came_and_the_last_word_has_retries() -> None:
    desk = Ledger(retries=1, finished=0, is_alive=lambda node: True)
    assert desk.begin_part(process(1), "unit rows 0 to 4", once=True) == (True, None)
    desk.ended(process(1))
    assert desk.begin_part(process(1), "unit rows 4 to 8", once=True) == (True, None)
    assert desk.begin_part(process(2), "unit rows 0 to 4", once=True) == (False, None)
    is_new, failure = desk.begin_part(process(2), "unit rows 4 to 8", once=True)
    assert not is_new and failure is not None and "pid 1 on host" in failure["where"]
    for pid in (2, 3):
        assert desk.begin_part(process(pid), "unit rows 5 to 6", once=False) == (True, None)
    assert desk.begin_part(process(4), "unit rows 5 to 6", once=False)[1] is not None
    assert desk.rows_at_fault(7, [5, 2]) == [2, 5] == desk.rows_at_fault(7)
    assert desk.rows_at_fault(8) == []
