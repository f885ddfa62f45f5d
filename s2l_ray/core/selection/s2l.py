"""S2L: a balanced sample over clusters of loss trajectories (arXiv 2403.07384, Alg. 1), and its control."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from s2l_ray.core.arrays import Integers
from s2l_ray.core.selection.balancing import Drawn, amount_of, balanced_draws, source_budgets, source_rng
from s2l_ray.core.selection.needs import Needs
from s2l_ray.core.selection.pool import Pool, Selection, drawn_selection


@dataclass(frozen=True)
class ClusterParams:
    """min_cluster_size: smaller clusters are drawn from only when all others of their source are exhausted."""

    min_cluster_size: int = 3

    def __post_init__(self) -> None:
        if self.min_cluster_size < 1:
            raise ValueError(f"min_cluster_size is {self.min_cluster_size}; write at least 1")


@dataclass(frozen=True)
class S2LParams(ClusterParams):
    """compat: `official` gives rows without target tokens the losses 0 and their cluster, as the official code does."""

    compat: Literal["official"] | None = None


def needs(params: ClusterParams) -> Needs:
    return Needs(clusters=True, without_targets=isinstance(params, S2LParams) and params.compat == "official")


def select_s2l(pool: Pool, budget: int, seed: int, params: ClusterParams) -> Selection:
    """Divide the budget over sources (if clusters were fitted inside sources), then over the clusters of each."""
    if pool.cluster_N is None:
        raise ValueError("s2l needs clusters and the pool has none; build them with --to clusters")
    rows_by_source = _groups(pool)
    sizes = {source: amount_of(rows, pool.weight_N) for source, rows in rows_by_source.items()}
    budgets = source_budgets(sizes, budget)
    drawn: list[Drawn] = []
    for source, rows in rows_by_source.items():
        weight_N = pool.weight_N[rows] if pool.weight_N is not None else None
        draws = balanced_draws(
            pool.cluster_N[rows],
            budgets[source],
            source_rng(seed, source),
            min_cluster_size=params.min_cluster_size,
            weight_N=weight_N,
        )
        drawn += [(rows[index_M], probability) for index_M, probability in draws]
    return drawn_selection(drawn, _notes(pool, params.min_cluster_size))


def select_random_clusters(pool: Pool, budget: int, seed: int, params: ClusterParams) -> Selection:
    """S2L over random groups: the clusters' ids, permuted inside each source (or over the whole pool)."""
    if pool.cluster_N is None:
        raise ValueError("random_clusters needs clusters and the pool has none; build them with --to clusters")
    return select_s2l(replace(pool, cluster_N=_permuted(pool, pool.cluster_N, seed)), budget, seed, params)


def _permuted(pool: Pool, cluster_N: Integers, seed: int) -> Integers:
    """Cluster ids, permuted inside each group."""
    permuted_N = np.empty_like(cluster_N)
    for source, rows in _groups(pool).items():
        permuted_N[rows] = source_rng(seed, f"random_clusters {source}").permutation(cluster_N[rows])
    return permuted_N


def _groups(pool: Pool) -> dict[str, np.ndarray]:
    if pool.group_by not in ("source", "none"):
        raise ValueError(f"group_by {pool.group_by!r} is unknown; use source or none")
    return pool.rows_by_source() if pool.group_by == "source" else {"": np.arange(len(pool))}


def _notes(pool: Pool, min_cluster_size: int) -> dict[str, int]:
    """Counts of clusters, where one id in two sources is two clusters."""
    if pool.cluster_N is None or not len(pool):
        return {"clusters": 0, "tiny_clusters": 0}
    group_N: Integers = pool.cluster_N
    if pool.group_by == "source":
        group_N = group_N.astype(np.int64) * len(pool.source_names) + pool.source_N
    sizes_G = np.bincount(group_N)
    return {
        "clusters": int((sizes_G > 0).sum()),
        "tiny_clusters": int(((sizes_G > 0) & (sizes_G < min_cluster_size)).sum()),
    }
