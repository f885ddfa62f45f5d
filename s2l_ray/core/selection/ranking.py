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

# row numbers -> their keys, in a new array
KeyOf = Callable[[Integers], np.ndarray]
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
    groups = groups_of(pool, params.within)
    quotas = proportional_quotas([amount_of(rows_G, pool.weight_N) for rows_G in groups], budget)
    index: list[Integers] = [np.empty(0, np.int64)]
    score = [np.empty(0, np.float32)]
    for rows_G, quota in zip(groups, quotas, strict=True):
        key_of = _key_of(pool, rows_G, taken)
        if taken == "middle":
            rows_G = _without_lower(pool, rows_G, key_of, quota)
        index.append(_first_rows(pool, rows_G, key_of, quota))
        score.append(-key_of(index[-1]) if taken == "highest" else key_of(index[-1]))
    return ranked_selection(np.concatenate(index), np.concatenate(score))


def lowest(pool: Pool, rows_G: Integers, count: int) -> Integers:
    """The `count` rows of a group that have the lowest scores."""
    return _first_rows(replace(pool, weight_N=None), rows_G, _key_of(pool, rows_G, "lowest"), count)


def groups_of(pool: Pool, within: Within) -> Sequence[Integers]:
    """Row numbers of each group that has any: sources in the order of their names, clusters of their ids."""
    if within == "source":
        return list(pool.rows_by_source().values())
    if within == "clusters":
        if pool.cluster_N is None:
            raise ValueError("within: clusters needs clusters and the pool has none; build them with --to clusters")
        return list(rows_by_group(pool.cluster_N).values())
    return [np.arange(len(pool), dtype=np.int32 if len(pool) < 2**31 else np.int64)] if len(pool) else []


def _key_of(pool: Pool, rows_G: Integers, taken: Taken) -> KeyOf:
    """The keys by which the rows of a group are ordered ascending, as a function of some of its rows."""
    score_N = pool.score_N
    if score_N is None:
        raise ValueError("a ranking needs a score for every row and the pool has none")
    if taken == "highest":
        return lambda rows: -score_N[rows]
    if taken == "nearest_median":
        center = _median(score_N[rows_G])
        return lambda rows: _distances(score_N[rows], center)
    return lambda rows: score_N[rows]


def _median(score_G: Float32) -> float:
    """The median, in float64 of values in float32. Reorders score_G."""
    lower, upper = (len(score_G) - 1) // 2, len(score_G) // 2
    score_G.partition((lower, upper))
    return (float(score_G[lower]) + float(score_G[upper])) / 2


def _distances(score_K: Float32, center: float) -> Float32:
    """|score - center| in place, subtracted in float64 without a copy of the scores."""
    np.subtract(score_K, center, out=score_K, dtype=np.float64, casting="same_kind")
    return np.abs(score_K, out=score_K)


def _without_lower(pool: Pool, rows_G: Integers, key_of: KeyOf, quota: int) -> Integers:
    """The rows of a group without its first ones, which fill half of what the quota leaves."""
    open_N = np.ones(len(pool), bool)
    open_N[_first_rows(pool, rows_G, key_of, (amount_of(rows_G, pool.weight_N) - quota) // 2)] = False
    return rows_G[open_N[rows_G]]


def _first_rows(pool: Pool, rows_G: Integers, key_of: KeyOf, amount: int) -> Integers:
    """The rows that fill the amount in order of (key, example_id) without exceeding it, in any order.

    Only ties are sorted: rows before the key at the cut are selected, and those that have it are compared by the
    prefix of their ids, then by whole ids. Keys are computed twice rather than kept.
    """
    prefix_N, read_ids, weight_N = pool.prefix_N, pool.read_ids, pool.weight_N
    selected = [rows_G[:0]]
    for key in (key_of, None if prefix_N is None else lambda rows: prefix_N[rows]):
        cut = None if key is None else _cut_value(key(rows_G), rows_G, weight_N, amount)
        if key is None or cut is None:
            continue
        selected.append(rows_G[key(rows_G) < cut])
        rows_G = rows_G[key(rows_G) == cut]
        amount -= amount_of(selected[-1], weight_N)
    if read_ids is not None and amount and len(rows_G) > 1:
        rows_G = rows_G[np.argsort(np.asarray(read_ids(rows_G.astype(np.int64)), object), kind="stable")]
    return np.concatenate([*selected, rows_G[_fitting(rows_G, weight_N, amount)]])


def _cut_value(key_G: np.ndarray, rows_G: Integers, weight_N: Integers | None, amount: int) -> Any:
    """The key of the first row, in ascending order, that would exceed the amount; None if no row does."""
    if weight_N is None:
        if amount >= len(key_G):
            return None
        key_G.partition(amount)
        return key_G[amount]
    order_G = np.argsort(key_G)
    end = _fitting(rows_G[order_G], weight_N, amount).stop
    return None if end == len(key_G) else key_G[order_G[end]]


def _fitting(rows_G: Integers, weight_N: Integers | None, amount: int) -> slice:
    """The longest prefix of rows that does not exceed the amount."""
    return slice(0, min(amount, len(rows_G))) if weight_N is None else within(weight_N[rows_G], amount)
