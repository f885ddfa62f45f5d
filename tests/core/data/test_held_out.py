"""Held-out rows against a sort of every source, and their properties."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.core.arrays import Bool, Int32, UInt64
from s2l_ray.core.data.deduplication import HELD_OUT, KEEP, filter_rows, held_out_keys, id_to_words
from tests.core.data.test_deduplication import ids_of

NAMES = ["a", "b", "c"]


def parts_of(source_N: Int32, size: int) -> list[tuple[list[str], Int32]]:
    """Parts of `size` rows, in each of which the sources are listed in another order."""
    parts = []
    for start in range(0, len(source_N), size):
        names = NAMES[start % 3 :] + NAMES[: start % 3]
        positions = [names.index(NAMES[source]) for source in source_N[start : start + size]]
        parts.append((names, np.array(positions, np.int32)))
    return parts


@settings(max_examples=100)
@given(st.integers(1, 400), st.integers(1, 30), st.integers(0, 10**6), st.integers(1, 50))
def test_the_smallest_keys_of_every_source_are_held_out(rows: int, per_source: int, seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    key_N: UInt64 = rng.permutation(10 * rows)[:rows].astype(np.uint64)
    source_N, kept_N = rng.integers(0, 3, rows).astype(np.int32), rng.random(rows) < 0.8
    expected: list[int] = []
    for source in range(3):
        keys = sorted(key_N[kept_N & (source_N == source)].tolist())
        expected += keys[: min(per_source, len(keys) // 10)]
    assert held_out_keys(parts_of(source_N, size), key_N, kept_N, per_source).tolist() == sorted(expected)


def test_rows_with_one_key_are_held_out_together() -> None:
    key_N = np.array([0, 1, 1, *range(2, 39)], np.uint64)
    kept_N: Bool = np.ones(40, bool)
    parts = [(["a"], np.zeros(40, np.int32))]
    assert held_out_keys(parts, key_N, kept_N, 1).tolist() == [0]
    assert held_out_keys(parts, key_N, kept_N, 2).tolist() == [0], "the second and third are equal"
    assert held_out_keys(parts, key_N, kept_N, 3).tolist() == [0, 1]


def test_without_sources_nothing_is_held_out() -> None:
    assert held_out_keys([], np.zeros(0, np.uint64), np.zeros(0, bool), 5).tolist() == []


def held_out_ids(ids: list[str], source_N: list[int], per_source: int, limit: int | None = None) -> dict[str, set[str]]:
    """Held-out ids by source; the rest of the rows is kept, rejected or over the limit."""
    decision_N = filter_rows(
        lambda: [id_to_words(ids)],
        [len(ids)],
        drop_duplicates=True,
        sample_E=[None],
        limit=limit,
        seed=3,
        read_sources=lambda: parts_of(np.array(source_N, np.int32), 64),
        held_out=per_source,
    )
    held_out: dict[str, set[str]] = {}
    for one, source, decision in zip(ids, source_N, decision_N.tolist(), strict=True):
        if decision == HELD_OUT:
            held_out.setdefault(NAMES[source], set()).add(one)
    assert Counter(decision_N.tolist())[KEEP] + sum(map(len, held_out.values())) == min(limit or len(ids), len(ids))
    return held_out


def test_the_choice_depends_on_contents_alone() -> None:
    ids, source_N = ids_of(list(range(1000))), [number % 3 for number in range(1000)]
    found = held_out_ids(ids, source_N, 20)
    assert {name: len(own) for name, own in found.items()} == {"a": 20, "b": 20, "c": 20}
    order = np.random.default_rng(0).permutation(1000)
    assert held_out_ids([ids[row] for row in order], [source_N[row] for row in order], 20) == found
    larger = held_out_ids(ids, source_N, 30)
    assert all(found[name] < larger[name] for name in NAMES)
    limited = held_out_ids(ids, source_N, 20, limit=300)
    assert all(limited[name] < found[name] for name in NAMES), "a tenth of about 100 rows"


@pytest.mark.parametrize(("rows", "held_out"), [(9, 0), (10, 1), (39, 3), (1000, 50)])
def test_at_most_a_tenth_of_a_source_is_held_out(rows: int, held_out: int) -> None:
    found = held_out_ids(ids_of(list(range(rows))), [0] * rows, 50)
    assert len(found.get("a", set())) == held_out
