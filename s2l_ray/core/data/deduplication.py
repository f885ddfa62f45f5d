"""Choice of the rows that form the pool (duplicates, samples, limit) and of shard boundaries.

The decisions depend on the rows and the seed only, not on the number of ranges or workers.

Shapes: N rows in global order; R ranges of rows; M rows of a subset.
"""

import math
from collections.abc import Sequence

import numpy as np

from s2l_ray.core.arrays import Bool, Int32, UInt8, UInt64

KEEP, DUPLICATE, NOT_SAMPLED, OVER_LIMIT = 0, 1, 2, 3
# Rejection reason of each decision other than KEEP.
REASONS = {DUPLICATE: "duplicate", NOT_SAMPLED: "not_sampled", OVER_LIMIT: "over_limit"}


def id_to_words(example_ids: Sequence[str]) -> UInt64:
    """Convert N ids of 32 hex digits to 64-bit words [N, 2]."""
    return np.frombuffer(bytes.fromhex("".join(example_ids)), dtype=">u8").astype(np.uint64).reshape(-1, 2)


def filter_rows(
    id_N2: UInt64,
    entry_N: Int32,
    *,
    drop_duplicates: bool,
    rows_by_entry: Sequence[int | None],
    limit: int | float | None,
    seed: int,
) -> UInt8:
    """The decision, one of the four codes above, for every row; entry_N is the position of its source in the job.

    Of rows with the same id, the first in global order is kept. A source with a number in `rows_by_entry` keeps that
    many rows, those with the smallest hash(seed, id). `limit` then does the same over the whole pool: a number of rows
    as an integer, a share of the pool as a float.
    """
    decision_N = np.zeros(len(id_N2), np.uint8)
    if drop_duplicates:
        decision_N[~_first_of_each_id(id_N2)] = DUPLICATE
    key_N = sampling_key(id_N2, seed)
    for entry, rows in enumerate(rows_by_entry):
        if rows is not None:
            _keep_smallest(decision_N, key_N, entry_N == entry, rows, NOT_SAMPLED)
    if limit is not None:
        pool = int((decision_N == KEEP).sum())
        rows = math.ceil(pool * limit) if isinstance(limit, float) else limit
        _keep_smallest(decision_N, key_N, np.ones(len(id_N2), bool), rows, OVER_LIMIT)
    return decision_N


def sampling_key(id_N2: UInt64, seed: int) -> UInt64:
    """hash(seed, id) by splitmix64, so that a sample depends on the rows and not on their order."""
    with np.errstate(over="ignore"):
        return _splitmix64(_splitmix64(id_N2[:, 0] ^ _splitmix64(np.full(len(id_N2), seed, np.uint64))) ^ id_N2[:, 1])


def cut_shards(kept_R: Sequence[int], shard_size: int) -> list[list[tuple[int, int, int]]]:
    """Shards of `shard_size` kept rows (the last may hold fewer), each as slices (range, start, stop) of kept rows."""
    shards: list[list[tuple[int, int, int]]] = []
    free = 0
    for position, kept in enumerate(kept_R):
        start = 0
        while start < kept:
            if free == 0:
                shards.append([])
                free = shard_size
            stop = min(kept, start + free)
            shards[-1].append((position, start, stop))
            free -= stop - start
            start = stop
    return shards


def _first_of_each_id(id_N2: UInt64) -> Bool:
    order_N = np.lexsort((id_N2[:, 1], id_N2[:, 0]))  # stable: equal ids stay in global order
    sorted_N2 = id_N2[order_N]
    first_N = np.ones(len(id_N2), bool)
    first_N[order_N[1:]] = (sorted_N2[1:] != sorted_N2[:-1]).any(axis=1)
    return first_N


def _keep_smallest(decision_N: UInt8, key_N: UInt64, among_N: Bool, rows: int, otherwise: int) -> None:
    """Keep, among the kept rows in among_N, those `rows` with the smallest keys and set the others to `otherwise`."""
    candidate_M = np.flatnonzero(among_N & (decision_N == KEEP))
    order_M = np.argsort(key_N[candidate_M], kind="stable")
    decision_N[candidate_M[order_M[rows:]]] = otherwise


def _splitmix64(bits_N: UInt64) -> UInt64:
    """The output function of splitmix64 (Steele, Lea and Flood, 2014)."""
    bits_N = bits_N + np.uint64(0x9E3779B97F4A7C15)
    bits_N = (bits_N ^ (bits_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits_N = (bits_N ^ (bits_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits_N ^ (bits_N >> np.uint64(31))
