"""Rows at fault, found by tries: against rows that are known to be bad, and with few failures on the way."""

from hypothesis import given
from hypothesis import strategies as st

from s2l_ray.runtime.failures import Record
from s2l_ray.runtime.narrowing import MOST_ROWS, failing_rows

FAILURE = {"kind": "ValueError", "message": "no", "details": ""}


class Tries:
    """Ranges fail that hold a bad row."""

    def __init__(self, bad: set[int], always: bool = False) -> None:
        self.bad, self.always = bad, always
        self.failed: list[tuple[int, int]] = []

    def __call__(self, start: int, stop: int) -> Record | None:
        if not self.always and not self.bad & set(range(start, stop)):
            return None
        self.failed.append((start, stop))
        return FAILURE


@given(
    st.integers(1, 9000).flatmap(
        lambda rows: st.tuples(st.just(rows), st.sets(st.integers(0, rows - 1), max_size=MOST_ROWS))
    )
)
def test_the_bad_rows_are_found_and_no_other(case: tuple[int, set[int]]) -> None:
    rows, bad = case
    tries = Tries(bad)
    assert set(failing_rows(rows, tries)) == bad
    assert len(tries.failed) <= 4 * len(bad), "a failure costs a process"
    again = Tries(bad)
    assert set(failing_rows(rows, again, known=bad)) == bad
    assert len(again.failed) == len(bad)


def test_known_rows_are_tried_like_any_other() -> None:
    assert set(failing_rows(500, Tries({7}), known=[7, 130])) == {7}
    assert set(failing_rows(500, Tries({7, 300}), known=[130])) == {7, 300}


def test_what_is_no_rows_fault_is_given_up_soon() -> None:
    broken = Tries(set(), always=True)
    assert failing_rows(8192, broken) == {} and len(broken.failed) == MOST_ROWS + 1
    many = Tries(set(range(0, 8192, 10)))
    assert failing_rows(8192, many) == {} and len(many.failed) == MOST_ROWS + 1
    assert failing_rows(100, Tries(set())) == {}
