"""The balancing rule of S2L: the smallest group first, each gets an equal share of what is left, or all it has.

In: group sizes or labels and a budget. Out: how many to take of each group, or which rows. The budget is met exactly.

Shapes: N rows, M rows selected, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Int64 = NDArray[np.int64]
Integers = NDArray[np.integer]


def balanced_sample(labels_N: ArrayLike, budget: int, rng: np.random.Generator, *, min_cluster_size: int = 1) -> Int64:
    """Exactly `budget` row numbers, ascending, spread over the clusters as evenly as their sizes allow.

    Clusters come in ascending size (ties by id); each gets floor(remaining / clusters left), or all it has if that is
    less, drawn uniformly without replacement: arXiv 2403.07384, Alg. 1. Clusters below `min_cluster_size` come after
    all others, by the same rule. Takes one integer from `rng`; cluster c then draws from
    default_rng([that integer, c]): its draw depends on its own rows and quota alone. ValueError for a budget below 0
    or above N, or a negative label.
    """
    labels_N = np.asarray(labels_N)
    check_budget(budget, len(labels_N))
    if len(labels_N) and labels_N.min() < 0:
        raise ValueError(f"cluster {labels_N.min()} is no cluster; pass only rows that have one")
    entropy = int(rng.integers(2**63))
    rows_by_cluster = rows_by_group(labels_N)
    quotas = _cluster_quotas(
        {cluster: len(rows) for cluster, rows in rows_by_cluster.items()}, budget, min_cluster_size
    )
    drawn = [
        rows[draw_rows(len(rows), quotas[cluster], np.random.default_rng([entropy, cluster]))]
        for cluster, rows in rows_by_cluster.items()
    ]
    return np.sort(np.concatenate([np.empty(0, np.int64), *drawn]))


def source_budgets(sizes: Mapping[str, int], budget: int) -> dict[str, int]:
    """Rows to take of each source: ascending sizes (ties by name), floor(remaining / sources left) or all there is.

    What a small source leaves flows to the larger ones; the sum is exactly `budget`. ValueError for a budget below 0 or
    above the sum of sizes.
    """
    check_budget(budget, sum(sizes.values()))
    names = sorted(sizes, key=lambda name: (sizes[name], name))
    return dict(zip(names, _fill([sizes[name] for name in names], budget), strict=True))


def rows_by_group(group_N: Integers) -> dict[int, Int64]:
    """Row numbers of each group, ascending; groups ascending."""
    groups_G, start_G = np.unique(np.sort(group_N), return_index=True)
    rows = np.split(np.argsort(group_N, kind="stable"), start_G[1:])
    # of no rows at all np.split still makes one piece
    return dict(zip(groups_G.tolist(), rows, strict=False))


def draw_rows(size: int, quota: int, rng: np.random.Generator) -> Int64:
    """`quota` of `size` positions, uniformly without replacement, ascending."""
    return np.sort(rng.choice(size, quota, replace=False)) if quota < size else np.arange(size)


def check_budget(budget: int, rows: int) -> None:
    """ValueError unless 0 <= budget <= rows."""
    if budget < 0:
        raise ValueError(f"budget {budget} is negative; set select.budget to at least 0")
    if budget > rows:
        raise ValueError(f"budget {budget} exceeds {rows} examples; lower select.budget")


def _cluster_quotas(sizes: Mapping[int, int], budget: int, min_cluster_size: int) -> dict[int, int]:
    order = sorted(sizes, key=lambda cluster: (sizes[cluster], cluster))
    quotas: dict[int, int] = {}
    for clusters in (
        [cluster for cluster in order if sizes[cluster] >= min_cluster_size],
        [cluster for cluster in order if sizes[cluster] < min_cluster_size],
    ):
        left = budget - sum(quotas.values())
        quotas.update(zip(clusters, _fill([sizes[cluster] for cluster in clusters], left), strict=True))
    return quotas


def _fill(ascending_sizes: Sequence[int], budget: int) -> list[int]:
    """What each of the groups gets, the smallest first. In any other order some of the budget may be left over."""
    quotas: list[int] = []
    for position, size in enumerate(ascending_sizes):
        quota = min(size, budget // (len(ascending_sizes) - position))
        quotas.append(quota)
        budget -= quota
    return quotas
