"""Selection by a score: the lowest, the highest, the middle rows, or those nearest to the median.

Ties are broken by example_id. `within` applies the rule inside clusters or sources, whose quotas are in proportion to
their sizes (largest remainder). N rows, G rows of a group, M rows selected.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from s2l_ray.core.arrays import Float32, Integers
from s2l_ray.core.selection.balancing import amount_of, proportional_quotas, rows_by_group, within
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
    selected = [_take(pool, rows_G, key_N, quota, taken) for rows_G, quota in zip(groups, quotas, strict=True) if quota]
    index_M = np.concatenate([np.empty(0, np.int64), *selected])
    score_N = key_N if taken == "nearest_median" else pool.score_N
    return ranked_selection(index_M, score_N[index_M])


def lowest(pool: Pool, rows_G: Integers, count: int) -> Integers:
    """The `count` rows of a group that have the lowest scores."""
    if pool.score_N is None:
        raise ValueError("a ranking needs a score for every row and the pool has none")
    return _first_rows(replace(pool, weight_N=None), rows_G, pool.score_N, count)


def groups_of(pool: Pool, within: Within) -> Sequence[Integers]:
    """Row numbers of each group that has any: sources in the order of their names, clusters of their ids."""
    if within == "source":
        return list(pool.rows_by_source().values())
    if within == "clusters":
        if pool.cluster_N is None:
            raise ValueError("within: clusters needs clusters and the pool has none; build them with --to clusters")
        return list(rows_by_group(pool.cluster_N).values())
    return [np.arange(len(pool), dtype=np.int32 if len(pool) < 2**31 else np.int64)] if len(pool) else []


def _keys(score_N: Float32, groups: Sequence[Integers], taken: Taken) -> Float32:
    """Keys by which rows are ordered ascending."""
    if taken == "highest":
        return -score_N
    if taken != "nearest_median":
        return score_N
    key_N = np.empty_like(score_N)
    for rows_G in groups:
        score_G = score_N[rows_G].astype(np.float64)
        key_N[rows_G] = np.abs(score_G - np.median(score_G))
    return key_N


def _take(pool: Pool, rows_G: Integers, key_N: Float32, quota: int, taken: Taken) -> Integers:
    """The first rows of a group that fill its quota; for `middle`, after those that fill half of what it leaves."""
    if taken == "middle":
        lower = _first_rows(pool, rows_G, key_N, (amount_of(rows_G, pool.weight_N) - quota) // 2)
        open_N = np.ones(len(pool), bool)
        open_N[lower] = False
        rows_G = rows_G[open_N[rows_G]]
    return _first_rows(pool, rows_G, key_N, quota)


def _first_rows(pool: Pool, rows_G: Integers, key_N: Float32, amount: int) -> Integers:
    """The longest range of the order by (key, example_id) that does not exceed the amount, in any order.

    Nothing is sorted but ties: rows before the key at the cut are selected, and those that have it are compared by the
    prefix of their ids, then by whole ids.
    """
    read_ids, prefix_N = pool.read_ids, pool.prefix_N
    keys: list[Callable[[Integers], np.ndarray]] = [lambda rows: key_N[rows]]
    if prefix_N is not None:
        keys.append(lambda rows: prefix_N[rows])
    if read_ids is not None:
        keys.append(lambda rows: np.asarray(read_ids(rows.astype(np.int64)), object))
    selected = [rows_G[:0]]
    for key in keys:
        key_G = key(rows_G) if amount and len(rows_G) else np.empty(0)
        cut = _cut_value(key_G, rows_G, pool.weight_N, amount) if len(key_G) else None
        if cut is None:
            break
        selected.append(rows_G[key_G < cut])
        amount -= amount_of(selected[-1], pool.weight_N)
        rows_G = rows_G[key_G == cut]
    return np.concatenate([*selected, rows_G[_fitting(rows_G, pool.weight_N, amount)]])


def _cut_value(key_G: np.ndarray, rows_G: Integers, weight_N: Integers | None, amount: int) -> Any:
    """The key of the first row, in ascending order, with which the amount would be exceeded; None if there is none."""
    if weight_N is None:
        return None if amount >= len(key_G) else np.partition(key_G, amount)[amount]
    order_G = np.argsort(key_G)
    end = _fitting(rows_G[order_G], weight_N, amount).stop
    return None if end == len(key_G) else key_G[order_G[end]]


def _fitting(rows_G: Integers, weight_N: Integers | None, amount: int) -> slice:
    """The longest prefix of rows that does not exceed the amount."""
    return slice(0, min(amount, len(rows_G))) if weight_N is None else within(weight_N[rows_G], amount)
