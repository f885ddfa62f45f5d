"""Row filtering against a loop over the rows, sampling keys and shard boundaries."""

import tracemalloc
from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.core.arrays import UInt8, UInt64
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


@settings(max_examples=200)
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
    ids, rows_of = ids_of(numbers), [entries.count(entry) for entry in range(3)]
    bucket_rows = data.draw(st.integers(1, 70))

    def read_ids() -> list[UInt64]:
        return [id_to_words(ids[start : start + 7]) for start in range(0, len(ids), 7)]

    options = {"drop_duplicates": drop, "sample_E": rows, "limit": limit, "seed": seed}
    found = filter_rows(read_ids, rows_of, **options, bucket_rows=bucket_rows)
    assert found.tolist() == filter_row_by_row(ids, sorted(entries), rows, limit, seed, drop)


def decide(ids: UInt64, sample: int | None = None, limit: int | Fraction | None = None, seed: int = 0) -> UInt8:
    """Decisions about the rows of one source."""
    return filter_rows(lambda: [ids], [len(ids)], drop_duplicates=True, sample_E=[sample], limit=limit, seed=seed)


@pytest.mark.parametrize(("rows", "share", "kept"), [(150, "0.01", 2), (1000, "0.009", 9), (10_000, "0.0057", 57)])
def test_shares_are_exact_and_rounded_up(rows: int, share: str, kept: int) -> None:
    decisions = decide(id_to_words(ids_of(list(range(rows)))), limit=Fraction(share))
    assert (decisions == KEEP).sum() == kept


def test_deciding_takes_at_most_forty_bytes_a_row() -> None:
    rows = 1 << 20
    id_N2 = np.random.default_rng(0).integers(0, 2**63, (rows, 2)).astype(np.uint64)
    id_N2[rows // 2 :] = id_N2[: rows // 2]
    parts = np.split(id_N2, 256)
    tracemalloc.start()
    decisions = filter_rows(
        lambda: parts,
        [rows],
        drop_duplicates=True,
        sample_E=[rows // 3],
        limit=Fraction("0.1"),
        seed=0,
        read_sources=lambda: ((["a"], np.zeros(len(part), np.int32)) for part in parts),
        held_out=100,
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 40 * rows
    assert Counter(decisions.tolist())[DUPLICATE] == rows // 2


def test_sample_does_not_depend_on_row_order() -> None:
    ids = ids_of(list(range(1000)))
    shuffled = [ids[row] for row in np.random.default_rng(0).permutation(1000)]

    def kept(order: list[str], seed: int) -> set[str]:
        decisions = decide(id_to_words(order), sample=100, seed=seed)
        return {one for one, decision in zip(order, decisions, strict=True) if decision == KEEP}

    assert kept(ids, 0) == kept(shuffled, 0)
    assert len(kept(ids, 0)) == 100
    assert 2 <= len(kept(ids, 0) & kept(ids, 1)) <= 30, "another seed draws another sample: 10 in common are expected"


def test_sampling_keys_are_uniform() -> None:
    keys = sampling_key(id_to_words(ids_of(list(range(20_000)))), 7)
    counts = np.bincount((keys >> np.uint64(60)).astype(int), minlength=16)
    assert np.all(np.abs(counts - 1250) < 5 * np.sqrt(1250))


RANGES = st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=12)


@given(RANGES, st.integers(1, 40))
def test_shards_cover_every_kept_row_of_a_source_once_in_order(ranges: list[tuple[int, bool]], size: int) -> None:
    kept = [rows for rows, _ in ranges]
    entries = np.cumsum([new for _, new in ranges]).tolist()
    shards = cut_shards(kept, entries, size)
    sizes = [sum(stop - start for _, start, stop in shard) for shard in shards]
    sources = [{entries[range_] for range_, _, _ in shard} for shard in shards]
    assert all(len(one) == 1 for one in sources), "no shard has rows of two sources"
    for rows, own, following in zip(sizes, sources, [*sources[1:], None], strict=False):
        assert rows == size if own == following else 0 < rows <= size
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


def test_an_added_source_changes_no_other_shard() -> None:
    before = cut_shards([5, 7], [0, 0], 4)
    assert cut_shards([5, 7, 3], [0, 0, 1], 4) == [*before, [(2, 0, 3)]]
