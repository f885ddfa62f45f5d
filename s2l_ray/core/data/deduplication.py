"""Choice of the rows that form the pool (duplicates, samples, limit, held-out rows) and of shard boundaries.

The decisions depend on the rows and the seed only, not on the number of ranges or workers.

Shapes: N rows in global order; E sources; P rows of a part; B rows of a bucket; M rows of a subset; H keys of rows that
are held out.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from s2l_ray.core.arrays import Bool, Int32, UInt8, UInt64

KEEP, DUPLICATE, NOT_SAMPLED, OVER_LIMIT, HELD_OUT = 0, 1, 2, 3, 4
# Rejection reason of each decision other than KEEP and HELD_OUT.
REASONS = {DUPLICATE: "duplicate", NOT_SAMPLED: "not_sampled", OVER_LIMIT: "over_limit"}
# Memory of `filter_rows`, at most. Beyond BUCKET_ROWS rows, ids are in memory one bucket at a time.
BYTES_PER_ROW, BUCKET_ROWS = 40, 1 << 26
CHUNK_ROWS = 1 << 16
# A source is held out up to 1/LARGEST_PART of its rows.
LARGEST_PART = 10


def id_to_words(example_ids: Sequence[str]) -> UInt64:
    """Convert N ids of 32 hex digits to 64-bit words [N, 2]."""
    return np.frombuffer(bytes.fromhex("".join(example_ids)), dtype=">u8").astype(np.uint64).reshape(-1, 2)


def filter_rows(
    read_ids: Callable[[], Iterable[UInt64]],
    rows_E: Sequence[int],
    *,
    drop_duplicates: bool,
    sample_E: Sequence[int | None],
    limit: int | Fraction | None,
    seed: int,
    read_sources: Callable[[], Iterable[tuple[Sequence[str], Int32]]] | None = None,
    held_out: int = 0,
    bucket_rows: int = BUCKET_ROWS,
) -> UInt8:
    """The decision, one of the five codes above, for every row.

    read_ids: iterates over the ids of all rows in global order, in parts of [*, 2]; called once for every bucket.
    rows_E: rows of each source. Of rows with the same id, the first is kept. A source with a number in `sample_E` keeps
    that many rows, those with the smallest hash(seed, id). `limit` then does the same over the whole pool: a number of
    rows, or a share of the pool, rounded up. Of what is left, `held_out` rows of every source are held out; see
    `held_out_keys`, also for what read_sources iterates over.
    """
    starts_E1 = np.concatenate([[0], np.cumsum(rows_E, dtype=np.int64)])
    key_N = np.empty(starts_E1[-1], np.uint64)
    decision_N = np.zeros(starts_E1[-1], np.uint8)
    buckets = max(1, -(-len(key_N) // bucket_rows)) if drop_duplicates else 1
    for bucket in range(buckets):
        id_B = _read_bucket(read_ids(), key_N, seed, bucket, buckets, keep=drop_duplicates)
        if drop_duplicates:
            repeated_B = ~_first_of_each_id(id_B)
            del id_B
            decision_N[np.flatnonzero(key_N % np.uint64(buckets) == bucket)[repeated_B]] = DUPLICATE
    for start, stop, rows in zip(starts_E1[:-1], starts_E1[1:], sample_E, strict=True):
        if rows is not None:
            _keep_smallest(decision_N[start:stop], key_N[start:stop], rows, NOT_SAMPLED)
    if limit is not None:
        pool = int(np.count_nonzero(decision_N == KEEP))
        _keep_smallest(decision_N, key_N, limit if isinstance(limit, int) else math.ceil(limit * pool), OVER_LIMIT)
    if held_out and read_sources is not None:
        _hold_out(decision_N, key_N, held_out_keys(read_sources(), key_N, decision_N == KEEP, held_out))
    return decision_N


def sampling_key(id_N2: UInt64, seed: int) -> UInt64:
    """hash(seed, id) by splitmix64, so that a sample depends on the rows and not on their order."""
    with np.errstate(over="ignore"):
        return _splitmix64(_splitmix64(id_N2[:, 0] ^ _splitmix64(np.full(len(id_N2), seed, np.uint64))) ^ id_N2[:, 1])


def held_out_keys(parts: Iterable[tuple[Sequence[str], Int32]], key_N: UInt64, kept_N: Bool, per_source: int) -> UInt64:
    """Ascending keys of the held-out rows: of every source those with the smallest keys, at most `per_source`.

    parts: names of sources and, for each row of the part, the position of its source among them. key_N: hash(seed, id),
    so that the choice depends on the rows and not on their order; larger pools hold out the same rows and others. Rows
    with equal ids are held out together, or none of them.
    """
    smallest: dict[str, UInt64] = {}
    rows: Counter[str] = Counter()
    start = 0
    for names, source_P in parts:
        part = slice(start, start + len(source_P))
        key_P, kept_P = key_N[part], kept_N[part]
        for position, name in enumerate(names):
            own = key_P[kept_P & (source_P == position)]
            rows[name] += len(own)
            keys = np.concatenate([smallest.get(name, key_N[:0]), own])
            # one more than can be held out, which shows whether the last of them is repeated
            smallest[name] = np.partition(keys, per_source)[: per_source + 1] if len(keys) > per_source + 1 else keys
        start = part.stop
    chosen = [
        _first_keys(np.sort(keys), min(per_source, rows[name] // LARGEST_PART)) for name, keys in smallest.items()
    ]
    return np.unique(np.concatenate([key_N[:0], *chosen]))


def _first_keys(sorted_keys: UInt64, number: int) -> UInt64:
    """The first `number` keys, or fewer, so that no key that follows is equal to one of them."""
    while 0 < number < len(sorted_keys) and sorted_keys[number] == sorted_keys[number - 1]:
        number -= 1
    return sorted_keys[:number]


def cut_shards(kept: Sequence[int], sources: Sequence[int], shard_size: int) -> list[list[tuple[int, int, int]]]:
    """Shards of `shard_size` kept rows, each as slices (piece, start, stop) of kept rows.

    sources: the position in the job of every piece's source. The last shard of a source may hold fewer rows: no shard
    has rows of two sources, so that a source that is added or removed leaves the shards of the others as they are.
    """
    shards: list[list[tuple[int, int, int]]] = []
    free, current = 0, None
    for position, (rows, source) in enumerate(zip(kept, sources, strict=True)):
        start = 0
        while start < rows:
            if free == 0 or source != current:
                shards.append([])
                free, current = shard_size, source
            stop = min(rows, start + free)
            shards[-1].append((position, start, stop))
            free -= stop - start
            start = stop
    return shards


def _read_bucket(
    parts: Iterable[UInt64], key_N: UInt64, seed: int, bucket: int, buckets: int, keep: bool
) -> NDArray[np.bytes_]:
    """The ids of the rows whose key falls into a bucket, as 16 bytes each. Fills key_N."""
    ids, row = bytearray(), 0
    for id_P2 in parts:
        key_P = sampling_key(id_P2, seed)
        key_N[row : row + len(key_P)] = key_P
        row += len(key_P)
        if keep:
            ids += id_P2[key_P % np.uint64(buckets) == bucket].tobytes()
    return np.frombuffer(ids, "S16")


def _first_of_each_id(id_N: NDArray[np.bytes_]) -> Bool:
    order_N = np.argsort(id_N, kind="stable")  # equal ids stay in global order
    first_N = np.ones(len(id_N), bool)
    for start in range(1, len(id_N), CHUNK_ROWS):
        sorted_C = id_N[order_N[start - 1 : start + CHUNK_ROWS]]
        first_N[order_N[start : start + CHUNK_ROWS]] = sorted_C[1:] != sorted_C[:-1]
    return first_N


def _keep_smallest(decision_N: UInt8, key_N: UInt64, rows: int, otherwise: int) -> None:
    """Keep the `rows` kept rows with the smallest keys, the first of equal ones, and set the others to `otherwise`."""
    kept_M = np.flatnonzero(decision_N == KEEP)
    if rows >= len(kept_M):
        return
    key_M = key_N[kept_M]
    largest = np.partition(key_M, rows - 1)[rows - 1]
    dropped_M = key_M > largest
    equal_E = np.flatnonzero(key_M == largest)
    free = rows - int(np.count_nonzero(key_M < largest))
    dropped_M[equal_E[free:]] = True
    decision_N[kept_M[dropped_M]] = otherwise


def _hold_out(decision_N: UInt8, key_N: UInt64, held_out_H: UInt64) -> None:
    """Set the kept rows with one of the ascending keys `held_out_H` to HELD_OUT."""
    if not len(held_out_H):
        return
    for start in range(0, len(key_N), CHUNK_ROWS):
        key_C, decision_C = key_N[start : start + CHUNK_ROWS], decision_N[start : start + CHUNK_ROWS]
        nearest_C = held_out_H[np.minimum(np.searchsorted(held_out_H, key_C), len(held_out_H) - 1)]
        decision_C[(nearest_C == key_C) & (decision_C == KEEP)] = HELD_OUT


def _splitmix64(bits_N: UInt64) -> UInt64:
    """The output function of splitmix64 (Steele, Lea and Flood, 2014)."""
    bits_N = bits_N + np.uint64(0x9E3779B97F4A7C15)
    bits_N = (bits_N ^ (bits_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits_N = (bits_N ^ (bits_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits_N ^ (bits_N >> np.uint64(31))
