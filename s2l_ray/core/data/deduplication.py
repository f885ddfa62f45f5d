"""Choice of the rows that form the pool (duplicates, samples, limit) and of shard boundaries.

The decisions depend on the rows and the seed only, not on the number of ranges or workers.

Shapes: N rows in global order; E sources; P rows of a part; B rows of a bucket; M rows of a subset.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from s2l_ray.core.arrays import Bool, UInt8, UInt64

KEEP, DUPLICATE, NOT_SAMPLED, OVER_LIMIT = 0, 1, 2, 3
# Rejection reason of each decision other than KEEP.
REASONS = {DUPLICATE: "duplicate", NOT_SAMPLED: "not_sampled", OVER_LIMIT: "over_limit"}
# Memory of `filter_rows`, at most. Beyond BUCKET_ROWS rows, ids are in memory one bucket at a time.
BYTES_PER_ROW, BUCKET_ROWS = 40, 1 << 26
CHUNK_ROWS = 1 << 16


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
    bucket_rows: int = BUCKET_ROWS,
) -> UInt8:
    """The decision, one of the four codes above, for every row.

    read_ids: iterates over the ids of all rows in global order, in parts of [*, 2]; called once for every bucket.
    rows_E: rows of each source. Of rows with the same id, the first is kept. A source with a number in `sample_E` keeps
    that many rows, those with the smallest hash(seed, id). `limit` then does the same over the whole pool: a number of
    rows, or a share of the pool, rounded up.
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
    return decision_N


def sampling_key(id_N2: UInt64, seed: int) -> UInt64:
    """hash(seed, id) by splitmix64, so that a sample depends on the rows and not on their order."""
    with np.errstate(over="ignore"):
        return _splitmix64(_splitmix64(id_N2[:, 0] ^ _splitmix64(np.full(len(id_N2), seed, np.uint64))) ^ id_N2[:, 1])


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


def _splitmix64(bits_N: UInt64) -> UInt64:
    """The output function of splitmix64 (Steele, Lea and Flood, 2014)."""
    bits_N = bits_N + np.uint64(0x9E3779B97F4A7C15)
    bits_N = (bits_N ^ (bits_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits_N = (bits_N ^ (bits_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits_N ^ (bits_N >> np.uint64(31))
