"""Rankings of whole pools by the methods that rank: their agreement, and the rank of one row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.catalog.pool import PoolRows, read_pool
from s2l_ray.catalog.pool_columns import columns_of_needs
from s2l_ray.config.select import Select
from s2l_ray.core.agreement import RankAgreement, rank_agreement
from s2l_ray.core.arrays import Bool, Float64, Integers
from s2l_ray.core.selection.balancing import proportional_quotas
from s2l_ray.core.selection.ranking import RankParams, Taken, groups_of
from s2l_ray.core.selection.registry import SELECTORS
from s2l_ray.errors import ConfigError


@dataclass(frozen=True)
class Ranking:
    """The rows of a pool that have a score, with their keys: lower ones rank first.

    dataset: URI. taken: the part of the ranking that is selected. groups: the rows of each group in which the rule
    applies, as positions in the pool.
    """

    dataset: str
    rows: PoolRows
    key_N: Float64
    taken: Taken
    groups: Sequence[Integers]

    def example_ids(self) -> list[str]:
        """The ids of all rows, in order."""
        read_ids = self.rows.pool.read_ids
        return list(read_ids(np.arange(len(self.key_N)))) if read_ids is not None else []


@dataclass(frozen=True)
class RowRank:
    """Rank of one row, from 1, among the `of` rows of its group.

    smallest_budget: the smallest number of rows that would include it, or None where shares, caps, lists of rows, a
    budget in tokens or the parts of `compat: official` decide too.
    """

    rank: int
    of: int
    smallest_budget: int | None


def read_ranking(inputs: Mapping[str, Artifact], select: Select, root: str) -> Ranking | None:
    """The ranking of a pool; None for a method that draws or compares rows. Raises `ConfigError` like `read_pool`."""
    selector, params = SELECTORS[select.method], select.params
    taken = selector.taken_by(params)
    if taken is None or not isinstance(params, RankParams):
        return None
    rows = read_pool(inputs, select, root, lambda done, total, unit: None)
    usable_M = np.flatnonzero(rows.pool.usable())
    pool = rows.pool.take(usable_M)
    assert pool.score_N is not None
    groups = groups_of(pool, params.within)
    kept = PoolRows(pool, rows.number_N[usable_M], rows.start_S, rows.source)
    key_N = _keys(pool.score_N.astype(np.float64), groups, taken)
    return Ranking(inputs["dataset"].uri, kept, key_N, taken, groups)


def _keys(score_N: Float64, groups: Sequence[Integers], taken: Taken) -> Float64:
    """Keys of which the lowest rank first: the score, its negative, or its distance from the median of its group."""
    if taken == "highest":
        return -score_N
    if taken != "nearest_median":
        return score_N
    key_N = np.empty_like(score_N)
    for rows_G in groups:
        distance_G = np.abs(score_N[rows_G] - np.median(score_N[rows_G]))
        key_N[rows_G] = distance_G.astype(np.float32)  # equal distances are ties, as in the selection
    return key_N


def agreement_of_rankings(first: Ranking, second: Ranking) -> RankAgreement:
    """Rank agreement over the rows that have a score in both: by position in one dataset, by example_id in two."""
    if first.dataset == second.dataset:
        _, index_M, other_M = np.intersect1d(first.rows.number_N, second.rows.number_N, return_indices=True)
    else:
        ids_N, other_ids_N = (np.asarray(one.example_ids(), object) for one in (first, second))
        _, index_M, other_M = np.intersect1d(ids_N, other_ids_N, return_indices=True)
    return rank_agreement(first.key_N[index_M], second.key_N[other_M])


def compare_trajectories(first: Mapping[str, Artifact], second: Mapping[str, Artifact]) -> dict[str, RankAgreement]:
    """Rank agreement of two trajectories, by each method that ranks by what both recorded, with its default keys.

    first, second: trajectories and the artifacts that they were made from, by kind.
    """
    methods = [name for name, one in SELECTORS.items() if one.score is not None and one.taken != "middle"]
    found = {}
    for method in methods:
        rankings = [_default_ranking(inputs, method) for inputs in (first, second)]
        if rankings[0] is not None and rankings[1] is not None:
            found[method] = agreement_of_rankings(rankings[0], rankings[1])
    return found


def _default_ranking(inputs: Mapping[str, Artifact], method: str) -> Ranking | None:
    """The ranking by a method with its default keys; None if it does not rank by recorded statistics."""
    try:
        select = Select(method=method, budget=1)
        columns = columns_of_needs(select, inputs)
    except (ConfigError, ValidationError):  # a statistic that was not recorded, or a method without defaults
        return None
    return read_ranking(inputs, select, ".") if columns else None


def rank_of_row(ranking: Ranking, select: Select, shard: int, row: int) -> RowRank | None:
    """The rank of a row of the dataset; None if it has no score."""
    at_M = np.flatnonzero(ranking.rows.number_N == ranking.rows.start_S[shard] + row)
    if not len(at_M):
        return None
    own = int(at_M[0])
    number, rows_G = next((number, rows_G) for number, rows_G in enumerate(ranking.groups) if own in rows_G)
    before = int(_precedes(ranking, rows_G, own).sum())
    listed = select.keep or select.drop
    constrained = select.shares or select.caps or listed or isinstance(select.budget, dict) or select.official_parts
    sizes = [len(one_G) for one_G in ranking.groups]
    smallest = None if constrained else _smallest_budget(sizes, number, before, ranking.taken)
    return RowRank(before + 1, len(rows_G), smallest)


def _precedes(ranking: Ranking, rows_G: Integers, own: int) -> Bool:
    """Which rows of a group rank before a row: by key, then by id."""
    key_G, key = ranking.key_N[rows_G], ranking.key_N[own]
    tied = rows_G[key_G == key]
    before_G: Bool = key_G < key
    if len(tied) > 1 and ranking.rows.pool.read_ids is not None:
        ids = dict(zip(tied.tolist(), ranking.rows.pool.read_ids(tied), strict=True))
        before_G[key_G == key] = [ids[row] < ids[own] for row in tied.tolist()]
    return before_G


def _smallest_budget(sizes: list[int], group: int, before: int, taken: Taken) -> int:
    """The smallest budget whose quota for the group includes the row that `before` rows precede."""
    size, total = sizes[group], sum(sizes)

    def includes(quota: int) -> bool:
        first = (size - quota) // 2 if taken == "middle" else 0
        return first <= before < first + quota

    least = abs(size - 2 * before) - 2 if taken == "middle" else before
    budget = max(1, least * total // size)
    while not includes(proportional_quotas(sizes, budget)[group]):
        budget += 1
    return budget
