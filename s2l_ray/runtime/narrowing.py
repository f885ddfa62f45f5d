"""Which rows a unit fails on, found by trying ranges of them, smaller and smaller.

In: the number of rows, and a way to try a range. Out: the rows that fail by themselves, each with its failure. None of
them where more fail than a few, for then it is not the rows that are at fault.
"""

from collections.abc import Callable, Collection
from itertools import pairwise

from s2l_ray.runtime.failures import Record

PARTS = 16
"""A failure costs a process and a new model, a range that passes only its rows: so the ranges shrink fast."""
MOST_ROWS = 8

Fails = Callable[[int, int], Record | None]
"""Tries the rows from `start` to `stop`, exclusive."""


def failing_rows(rows: int, fails: Fails, known: Collection[int] = ()) -> dict[int, Record]:
    """The rows at fault and how each failed; `known` are those that failed with the same rows in another unit."""
    found: dict[int, Record] = {}
    ranges = _around(known, rows)
    while ranges:
        narrower: list[tuple[int, int]] = []
        failed = 0
        for start, stop in ranges:
            failure = fails(start, stop)
            failed += failure is not None
            if len(found) + failed > MOST_ROWS:
                return {}
            if failure is not None and stop == start + 1:
                found[start], failed = failure, failed - 1
            elif failure is not None:
                narrower += _parts(start, stop)
        ranges = narrower
    return found


def _around(known: Collection[int], rows: int) -> list[tuple[int, int]]:
    """The known rows one by one, and what lies between them; without any, the first parts."""
    cuts = sorted({0, rows, *known, *(row + 1 for row in known)})
    return _ranges(cuts) if len(cuts) > 2 else _parts(0, rows)


def _parts(start: int, stop: int) -> list[tuple[int, int]]:
    return _ranges([start + (stop - start) * part // PARTS for part in range(PARTS + 1)])


def _ranges(cuts: list[int]) -> list[tuple[int, int]]:
    return [(start, stop) for start, stop in pairwise(cuts) if start < stop]
