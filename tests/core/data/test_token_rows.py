"""TokenRows, plan_batches and collate against loops over lists."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_ray.core.data.token_rows import IGNORE, PAD, TokenRows, collate, plan_batches

Row = tuple[list[int], list[tuple[int, int]]]


@st.composite
def token_row(draw: st.DrawFn) -> Row:
    ids = draw(st.lists(st.integers(0, 999), min_size=0, max_size=9))
    cuts = draw(st.lists(st.integers(0, len(ids)), max_size=6, unique=True).map(sorted))
    return ids, [(cuts[i], cuts[i + 1]) for i in range(0, len(cuts) - 1, draw(st.sampled_from([1, 2])))]


def build(rows: list[Row]) -> TokenRows:
    return TokenRows.from_rows([ids for ids, _ in rows], [spans for _, spans in rows])


def target_positions(row: Row) -> list[int]:
    return [p for start, end in row[1] for p in range(start, end) if p >= 1]


@given(st.lists(token_row(), max_size=8))
def test_lengths_and_targets_match_lists(rows: list[Row]) -> None:
    built = build(rows)
    assert len(built) == len(rows)
    assert built.lengths_N.tolist() == [len(ids) for ids, _ in rows]
    assert built.target_tokens_N.tolist() == [len(target_positions(row)) for row in rows]
    for index, (ids, spans) in enumerate(rows):
        taken = built.take([index])
        assert taken.ids_X.tolist() == ids
        assert [tuple(span) for span in taken.spans_S2.tolist()] == spans
        assert np.flatnonzero(taken.target_mask_X).tolist() == target_positions(rows[index])


@given(st.lists(token_row(), min_size=1, max_size=8), st.data())
def test_take_returns_rows_in_index_order(rows: list[Row], data: st.DataObject) -> None:
    index_M = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=10))
    taken, expected = build(rows).take(index_M), build([rows[i] for i in index_M])
    for name in ("ids_X", "starts_N1", "spans_S2", "span_starts_N1"):
        left, right = getattr(taken, name), getattr(expected, name)
        assert left.dtype == right.dtype
        assert np.array_equal(left, right)


@given(st.lists(st.lists(token_row(), max_size=4), max_size=4))
def test_rows_on_disk_equal_rows_in_memory(parts: list[list[Row]]) -> None:
    on_disk, expected = TokenRows.on_disk(build(part) for part in parts), build([row for part in parts for row in part])
    for name in ("ids_X", "starts_N1", "spans_S2", "span_starts_N1"):
        left, right = getattr(on_disk, name), getattr(expected, name)
        assert left.dtype == right.dtype
        assert np.array_equal(left, right)


@given(st.lists(token_row(), min_size=1, max_size=8), st.data())
def test_collate_pads_on_the_right_and_labels_targets_only(rows: list[Row], data: st.DataObject) -> None:
    index_B = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=5))
    batch = collate(build(rows), index_B)
    longest = max(len(rows[i][0]) for i in index_B)
    for position, index in enumerate(index_B):
        ids, padding = rows[index][0], longest - len(rows[index][0])
        targets = set(target_positions(rows[index]))
        assert batch.input_ids_BL[position].tolist() == ids + [PAD] * padding
        assert batch.attention_mask_BL[position].tolist() == [1] * len(ids) + [0] * padding
        labels = [token if p in targets else IGNORE for p, token in enumerate(ids)]
        assert batch.labels_BL[position].tolist() == labels + [IGNORE] * padding


def test_target_mask_excludes_position_0() -> None:
    rows = TokenRows.from_rows([[5, 6, 7, 8, 9, 10]], [[(0, 2), (4, 6)]])
    assert rows.target_mask_X.tolist() == [False, True, False, False, True, True]
    assert rows.target_tokens_N.tolist() == [3]


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 120))
def test_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = plan_batches(lengths, budget)
    order = [int(i) for batch in batches for i in batch]
    assert order == sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
    for left, right in pairwise(batches):
        assert (len(left) + 1) * lengths[right[0]] > budget, "the batch had space for another row"


@pytest.mark.parametrize(
    ("ids", "spans"),
    [([1, 2, 3], [(1, 4)]), ([1, 2, 3], [(2, 2)]), ([1, 2, 3], [(0, 2), (1, 3)]), ([1, 2, 3], [(2, 3), (0, 1)])],
)
def test_invalid_spans_raise(ids: list[int], spans: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="row 1: target span"):
        TokenRows.from_rows([[9], ids], [[], spans])


def test_inconsistent_row_count_and_zero_budget_raise() -> None:
    with pytest.raises(ValueError, match="2 rows of tokens but 1 of spans"):
        TokenRows.from_rows([[1], [2]], [[]])
    with pytest.raises(ValueError, match="tokens_per_batch is 0"):
        plan_batches([1], 0)


def test_module_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, s2l_ray.core.data.token_rows; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
