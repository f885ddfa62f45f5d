"""Selection by a score: the lowest, the highest, the middle rows, or those nearest to the median.

Ties are broken by example_id. `within` applies the rule inside clusters or sources, whose quotas are in proportion to
their sizes (largest remainder). N rows, G rows of a group, M rows selected.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from s2l_ray.core.arrays import Float32, Int64
from s2l_ray.core.selection.balancing import amount_of, proportional_quotas, rows_by_group
from s2l_ray.core.selection.pool import Pool, Selection, ranked_selection

Taken = Literal["lowest", "highest", "middle", "nearest_median"]
Order = Literal["lowest", "highest"]
Within = Literal["pool", "source", "clusters"]


@dataclass(frozen=True)
class RankParams:
    """within: the groups in which the rule applies: the whole pool, each source, or each cluster."""

    within: Within = "pool"


@dataclass(frozen=True)
class OrderParams(RankParams):
    """order: the end of the ranking that is selected."""

    order: Order = "highest"


def select_ranked(pool: Pool, budget: int, params: RankParams, taken: Taken) -> Selection:
    """Select by pool.score_N, which holds no NaN. The score of a row under `nearest_median` is its distance."""
    if pool.score_N is None:
        raise ValueError("a ranking needs a score for every row and the pool has none")
    groups = groups_of(pool, params.within)
    quotas = proportional_quotas([amount_of(rows_G, pool.weight_N) for rows_G in groups], budget)
    key_N = _keys(pool.score_N, groups, taken)
    taken_rows = [
        _take(pool, rows_G, key_N, quota, taken) for rows_G, quota in zip(groups, quotas, strict=True) if quota
    ]
    index_M = np.concatenate([np.empty(0, np.int64), *taken_rows])
    score_N = key_N if taken == "nearest_median" else pool.score_N
    return ranked_selection(index_M, score_N[index_M])


def groups_of(pool: Pool, within: Within) -> list[Int64]:
    """Row numbers of each group that has any: sources in the order of their names, clusters of their ids."""
    if within == "source":
        return list(pool.rows_by_source().values())
    if within == "clusters":
        if pool.cluster_N is None:
            raise ValueError("within: clusters needs clusters and the pool has none; build them with --to clusters")
        return list(rows_by_group(pool.cluster_N).values())
    return [np.arange(len(pool))] if len(pool) else []


def lowest(pool: Pool, rows_G: Int64, count: int) -> Int64:
    """The `count` rows of a group that have the lowest scores."""
    if pool.score_N is None:
        raise ValueError("a ranking needs a score for every row and the pool has none")
    return _take(replace(pool, weight_N=None), rows_G, pool.score_N, count, "lowest")


def _keys(score_N: Float32, groups: list[Int64], taken: Taken) -> Float32:
    """Keys by which rows are sorted ascending."""
    if taken == "highest":
        return -score_N
    if taken != "nearest_median":
        return score_N
    key_N = np.empty_like(score_N)
    for rows_G in groups:
        score_G = score_N[rows_G].astype(np.float64)
        key_N[rows_G] = np.abs(score_G - np.median(score_G))
    return key_N


def _take(pool: Pool, rows_G: Int64, key_N: Float32, quota: int, taken: Taken) -> Int64:
    """The rows of one group: a range of its order by (key, example_id) that fills the quota.

    In tokens, the range ends before the row that would exceed the quota, and the middle begins at the row that has
    half of the remaining tokens before it.
    """
    prefix_G = pool.prefix_N[rows_G] if pool.prefix_N is not None else np.zeros(len(rows_G), np.uint64)
    sorted_G = rows_G[np.lexsort((prefix_G, key_N[rows_G]))]
    first = 0
    if taken == "middle":
        left = amount_of(rows_G, pool.weight_N) - quota
        first = _cut(pool, sorted_G, key_N, 0, left // 2, round_up=True)
    return sorted_G[first : _cut(pool, sorted_G, key_N, first, quota)]


def _cut(pool: Pool, sorted_G: Int64, key_N: Float32, first: int, amount: int, *, round_up: bool = False) -> int:
    """The end of the range from `first` with at most `amount` (for round_up: at least), after ties are in order."""
    end = _end(pool, sorted_G, first, amount, round_up)
    for position in (end - 1, end):
        if 0 <= position < len(sorted_G):
            _sort_ties(pool, sorted_G, key_N, position)
    return _end(pool, sorted_G, first, amount, round_up)


def _end(pool: Pool, sorted_G: Int64, first: int, amount: int, round_up: bool) -> int:
    if pool.weight_N is None:
        return min(first + amount, len(sorted_G))
    total_K = np.cumsum(pool.weight_N[sorted_G[first:]], dtype=np.int64)
    if round_up:
        return first + (int(np.searchsorted(total_K, amount)) + 1 if amount else 0)
    return first + int(np.searchsorted(total_K, amount, side="right"))


def _sort_ties(pool: Pool, sorted_G: Int64, key_N: Float32, position: int) -> None:
    """Sort by whole ids, in place, the rows with the key and prefix of the row at `position`."""
    if pool.prefix_N is None or pool.read_ids is None:
        return
    row = sorted_G[position]
    tied = np.flatnonzero((key_N[sorted_G] == key_N[row]) & (pool.prefix_N[sorted_G] == pool.prefix_N[row]))
    if len(tied) > 1:
        ids = np.asarray(pool.read_ids(sorted_G[tied]), object)
        sorted_G[tied] = sorted_G[tied][np.argsort(ids, kind="stable")]
