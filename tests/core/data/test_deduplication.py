"""Settling the pool, against a plain walk over the rows."""

from collections import defaultdict

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.core.data.deduplication import (
    DUPLICATE,
    KEPT,
    NOT_SAMPLED,
    OVER_LIMIT,
    cut_shards,
    id_words,
    sampling_key,
    settle,
)


def ids_of(numbers: list[int]) -> list[str]:
    return [xxhash.xxh3_128_hexdigest(str(number).encode()) for number in numbers]


def walk(
    ids: list[str], entries: list[int], rows: list[int | None], limit: int | None, seed: int, drop: bool
) -> list[int]:
    """The rule, row by row."""
    keys = {one: int(sampling_key(id_words([one]), seed)[0]) for one in ids}
    verdicts, seen = [], set()
    for one in ids:
        verdicts.append(DUPLICATE if drop and one in seen else KEPT)
        seen.add(one)
    for entry, count in enumerate(rows):
        mine = [place for place, verdict in enumerate(verdicts) if verdict == KEPT and entries[place] == entry]
        if count is not None:
            for place in sorted(mine, key=lambda place: (keys[ids[place]], place))[count:]:
                verdicts[place] = NOT_SAMPLED
    if limit is not None:
        mine = [place for place, verdict in enumerate(verdicts) if verdict == KEPT]
        for place in sorted(mine, key=lambda place: (keys[ids[place]], place))[limit:]:
            verdicts[place] = OVER_LIMIT
    return verdicts


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_settling_is_the_rule_row_by_row(data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=60))
    entries = data.draw(st.lists(st.integers(0, 2), min_size=len(numbers), max_size=len(numbers)))
    rows = data.draw(st.lists(st.none() | st.integers(1, 10), min_size=3, max_size=3))
    limit, drop, seed = (
        data.draw(st.none() | st.integers(1, 20)),
        data.draw(st.booleans()),
        data.draw(st.integers(0, 5)),
    )
    ids = ids_of(numbers)
    found = settle(
        id_words(ids), np.array(entries, np.int32), drop_duplicates=drop, rows_by_entry=rows, limit=limit, seed=seed
    )
    assert found.tolist() == walk(ids, entries, rows, limit, seed, drop)


def test_a_share_is_rounded_up_so_that_a_slice_is_never_empty() -> None:
    ids = id_words(ids_of(list(range(150))))
    verdicts = settle(ids, np.zeros(150, np.int32), drop_duplicates=True, rows_by_entry=[None], limit=0.01, seed=0)
    assert (verdicts == KEPT).sum() == 2


def test_a_sample_follows_from_the_rows_and_not_from_their_order() -> None:
    ids = ids_of(list(range(1000)))
    shuffled = [ids[place] for place in np.random.default_rng(0).permutation(1000)]

    def kept(order: list[str], seed: int) -> set[str]:
        entry = np.zeros(1000, np.int32)
        verdicts = settle(id_words(order), entry, drop_duplicates=True, rows_by_entry=[100], limit=None, seed=seed)
        return {one for one, verdict in zip(order, verdicts, strict=True) if verdict == KEPT}

    assert kept(ids, 0) == kept(shuffled, 0)
    assert len(kept(ids, 0)) == 100
    assert 2 <= len(kept(ids, 0) & kept(ids, 1)) <= 30, "another seed draws another sample: 10 in common are expected"


def test_sampling_keys_are_spread_evenly() -> None:
    keys = sampling_key(id_words(ids_of(list(range(20_000)))), 7)
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
        for place, start, stop in shard:
            rows[place].extend(range(start, stop))
            order.extend((place, row) for row in range(start, stop))
    assert {place: len(found) for place, found in rows.items()} == {place: n for place, n in enumerate(kept) if n}
    assert order == sorted(order)


def test_id_words_are_the_hex_digits() -> None:
    assert id_words(["0" * 15 + "1" + "f" * 16]).tolist() == [[1, 2**64 - 1]]
    with pytest.raises(ValueError):
        id_words(["xyz"])
