"""Row filtering against a loop over the rows, sampling keys and shard boundaries."""

from collections import defaultdict

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.core.data.deduplication import (
    DUPLICATE,
    KEEP,
    NOT_SAMPLED,
    OVER_LIMIT,
    cut_shards,
    filter_rows,
    id_to_words,
    sampling_key,
)


def ids_of(numbers: list[int]) -> list[str]:
    return [xxhash.xxh3_128_hexdigest(str(number).encode()) for number in numbers]


def filter_row_by_row(
    ids: list[str], entries: list[int], rows: list[int | None], limit: int | None, seed: int, drop: bool
) -> list[int]:
    """Decisions by their definition."""
    keys = {one: int(sampling_key(id_to_words([one]), seed)[0]) for one in ids}
    decisions, seen = [], set()
    for one in ids:
        decisions.append(DUPLICATE if drop and one in seen else KEEP)
        seen.add(one)
    for entry, count in enumerate(rows):
        mine = [row for row, decision in enumerate(decisions) if decision == KEEP and entries[row] == entry]
        if count is not None:
            for row in sorted(mine, key=lambda row: (keys[ids[row]], row))[count:]:
                decisions[row] = NOT_SAMPLED
    if limit is not None:
        mine = [row for row, decision in enumerate(decisions) if decision == KEEP]
        for row in sorted(mine, key=lambda row: (keys[ids[row]], row))[limit:]:
            decisions[row] = OVER_LIMIT
    return decisions


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_decisions_match_a_loop_over_the_rows(data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=60))
    entries = data.draw(st.lists(st.integers(0, 2), min_size=len(numbers), max_size=len(numbers)))
    rows = data.draw(st.lists(st.none() | st.integers(1, 10), min_size=3, max_size=3))
    limit, drop, seed = (
        data.draw(st.none() | st.integers(1, 20)),
        data.draw(st.booleans()),
        data.draw(st.integers(0, 5)),
    )
    ids = ids_of(numbers)
    found = filter_rows(
        id_to_words(ids), np.array(entries, np.int32), drop_duplicates=drop, rows_by_entry=rows, limit=limit, seed=seed
    )
    assert found.tolist() == filter_row_by_row(ids, entries, rows, limit, seed, drop)


def test_share_is_rounded_up() -> None:
    ids = id_to_words(ids_of(list(range(150))))
    decisions = filter_rows(
        ids, np.zeros(150, np.int32), drop_duplicates=True, rows_by_entry=[None], limit=0.01, seed=0
    )
    assert (decisions == KEEP).sum() == 2


def test_sample_does_not_depend_on_row_order() -> None:
    ids = ids_of(list(range(1000)))
    shuffled = [ids[row] for row in np.random.default_rng(0).permutation(1000)]

    def kept(order: list[str], seed: int) -> set[str]:
        entry = np.zeros(1000, np.int32)
        decisions = filter_rows(
            id_to_words(order), entry, drop_duplicates=True, rows_by_entry=[100], limit=None, seed=seed
        )
        return {one for one, decision in zip(order, decisions, strict=True) if decision == KEEP}

    assert kept(ids, 0) == kept(shuffled, 0)
    assert len(kept(ids, 0)) == 100
    assert 2 <= len(kept(ids, 0) & kept(ids, 1)) <= 30, "another seed draws another sample: 10 in common are expected"


def test_sampling_keys_are_uniform() -> None:
    keys = sampling_key(id_to_words(ids_of(list(range(20_000)))), 7)
    counts = np.bincount((keys >> np.uint64(60)).astype(int), minlength=16)
    assert np.all(np.abs(counts - 1250) < 5 * np.sqrt(1250))


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(1, 40))
def test_shards_cover_every_kept_row_once_in_order(kept: list[int], size: int) -> None:
    shards = cut_shards(kept, size)
    sizes = [sum(stop - start for _, start, stop in shard) for shard in shards]
    assert all(one == size for one in sizes[:-1]) and all(0 < one <= size for one in sizes)
    rows = defaultdict(list)
    order = []
    for shard in shards:
        for range_, start, stop in shard:
            rows[range_].extend(range(start, stop))
            order.extend((range_, row) for row in range(start, stop))
    assert {range_: len(found) for range_, found in rows.items()} == {range_: n for range_, n in enumerate(kept) if n}
    assert order == sorted(order)


def test_id_words_are_the_hex_digits() -> None:
    assert id_to_words(["0" * 15 + "1" + "f" * 16]).tolist() == [[1, 2**64 - 1]]
    with pytest.raises(ValueError):
        id_to_words(["xyz"])
