"""Which formed rows make up the pool, and where its shards are cut.

In: the ids of all formed rows in global order, and which source entry of the job each came from. Out: a verdict a row:
kept, or why not; and shards as slices of ranges. Nothing here depends on who read the rows, or how many did.

Shapes: N formed rows, in global order; R ranges of rows.
"""

import math
from collections.abc import Sequence

import numpy as np

from s2l_ray.core.arrays import Bool, Int32, UInt8, UInt64

KEPT, DUPLICATE, NOT_SAMPLED, OVER_LIMIT = 0, 1, 2, 3
REASONS = {DUPLICATE: "duplicate", NOT_SAMPLED: "not_sampled", OVER_LIMIT: "over_limit"}


def id_words(example_ids: Sequence[str]) -> UInt64:
    """[N, 2] 64-bit words of N ids of 32 hex digits."""
    return np.frombuffer(bytes.fromhex("".join(example_ids)), dtype=">u8").astype(np.uint64).reshape(-1, 2)


def settle(
    id_N2: UInt64,
    entry_N: Int32,
    *,
    drop_duplicates: bool,
    rows_by_entry: Sequence[int | None],
    limit: int | float | None,
    seed: int,
) -> UInt8:
    """A verdict for every formed row.

    Of rows with one id the first in global order stays. An entry with `rows` keeps those with the smallest
    hash(seed, id), then `limit` does the same over the whole pool: rows as an integer, a share of it as a float.
    """
    verdict_N = np.zeros(len(id_N2), np.uint8)
    if drop_duplicates:
        verdict_N[~_first_of_each(id_N2)] = DUPLICATE
    key_N = sampling_key(id_N2, seed)
    for entry, rows in enumerate(rows_by_entry):
        if rows is not None:
            _keep_smallest(verdict_N, key_N, entry_N == entry, rows, NOT_SAMPLED)
    if limit is not None:
        pool = int((verdict_N == KEPT).sum())
        rows = math.ceil(pool * limit) if isinstance(limit, float) else limit
        _keep_smallest(verdict_N, key_N, np.ones(len(id_N2), bool), rows, OVER_LIMIT)
    return verdict_N


def sampling_key(id_N2: UInt64, seed: int) -> UInt64:
    """hash(seed, id): splitmix64 over the words of an id, so that a sample follows from the rows, not their order."""
    with np.errstate(over="ignore"):
        return _mix(_mix(id_N2[:, 0] ^ _mix(np.full(len(id_N2), seed, np.uint64))) ^ id_N2[:, 1])


def cut_shards(kept_R: Sequence[int], shard_size: int) -> list[list[tuple[int, int, int]]]:
    """Shards of `shard_size` kept rows (the last may hold fewer), each as slices (range, start, stop) of kept rows."""
    shards: list[list[tuple[int, int, int]]] = []
    room = 0
    for position, kept in enumerate(kept_R):
        start = 0
        while start < kept:
            if room == 0:
                shards.append([])
                room = shard_size
            stop = min(kept, start + room)
            shards[-1].append((position, start, stop))
            room -= stop - start
            start = stop
    return shards


def _first_of_each(id_N2: UInt64) -> Bool:
    order_N = np.lexsort((id_N2[:, 1], id_N2[:, 0]))  # stable: equal ids stay in global order
    sorted_N2 = id_N2[order_N]
    first_N = np.ones(len(id_N2), bool)
    first_N[order_N[1:]] = (sorted_N2[1:] != sorted_N2[:-1]).any(axis=1)
    return first_N


def _keep_smallest(verdict_N: UInt8, key_N: UInt64, among_N: Bool, rows: int, otherwise: int) -> None:
    candidate_M = np.flatnonzero(among_N & (verdict_N == KEPT))
    order_M = np.argsort(key_N[candidate_M], kind="stable")
    verdict_N[candidate_M[order_M[rows:]]] = otherwise


def _mix(word_N: UInt64) -> UInt64:
    """The output function of splitmix64 (Steele, Lea and Flood, 2014)."""
    word_N = word_N + np.uint64(0x9E3779B97F4A7C15)
    word_N = (word_N ^ (word_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word_N = (word_N ^ (word_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word_N ^ (word_N >> np.uint64(31))
