"""S2L: a balanced sample over clusters of loss trajectories (arXiv 2403.07384, Alg. 1)."""

from dataclasses import dataclass

import numpy as np

from s2l_ray.core.selection.balancing import balanced_sample, source_budgets, source_rng
from s2l_ray.core.selection.pool import Pool, Selection, selection_from_draws


@dataclass(frozen=True)
class S2LParams:
    """min_cluster_size: smaller clusters are drawn from only when all others of their source are exhausted."""

    min_cluster_size: int = 3

    def __post_init__(self) -> None:
        if self.min_cluster_size < 1:
            raise ValueError(f"min_cluster_size is {self.min_cluster_size}; write at least 1")


def select_s2l(pool: Pool, budget: int, seed: int, params: S2LParams) -> Selection:
    """Divide the budget over sources (if clusters were fitted inside sources), then over the clusters of each."""
    if pool.cluster_N is None:
        raise ValueError("s2l needs clusters and the pool has none; build them with --to clusters")
    if pool.group_by not in ("source", "none"):
        raise ValueError(f"group_by {pool.group_by!r} is unknown; use source or none")
    rows_by_source = pool.rows_by_source() if pool.group_by == "source" else {"": np.arange(len(pool))}
    budgets = source_budgets({source: len(rows) for source, rows in rows_by_source.items()}, budget)
    drawn = []
    for source, rows in rows_by_source.items():
        rng = source_rng(seed, source)
        index_M = balanced_sample(pool.cluster_N[rows], budgets[source], rng, min_cluster_size=params.min_cluster_size)
        drawn.append(rows[index_M])
    group_N = pool.cluster_N.astype(np.int64)
    if pool.group_by == "source":
        group_N = group_N * len(pool.source_names) + pool.source_N
    sizes_G = np.unique(group_N, return_counts=True)[1]
    notes = {"clusters": len(sizes_G), "tiny_clusters": int((sizes_G < params.min_cluster_size).sum())}
    return selection_from_draws(drawn, group_N, notes)
