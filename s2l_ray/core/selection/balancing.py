"""The balancing rule of S2L: groups in ascending size, each receives an equal share of what remains, or all it has.

Ascending order is what makes the result meet the budget exactly: whatever a small group leaves goes to larger ones.
N rows, M rows selected, G groups.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from s2l_ray.core.arrays import Int64, Integers


def balanced_sample(labels_N: ArrayLike, budget: int, rng: np.random.Generator, *, min_cluster_size: int = 1) -> Int64:
    """Draw exactly `budget` row numbers, ascending, spread over clusters as evenly as their sizes allow.

    Clusters in ascending size (ties by id) receive floor(remaining / clusters left), or all they have if that is less,
    drawn uniformly without replacement: arXiv 2403.07384, Alg. 1. Clusters below `min_cluster_size` follow all others,
    by the same rule. Takes one integer from `rng`; cluster c then draws from default_rng([that integer, c]), so that
    its draw depends on its own rows and quota alone. Raises ValueError for a budget outside 0 to N or a negative label.
    """
    labels_N = np.asarray(labels_N)
    check_budget(budget, len(labels_N))
    if len(labels_N) and labels_N.min() < 0:
        raise ValueError(f"label {labels_N.min()} is negative; pass only rows that have a cluster")
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
    """Rows to draw from each source: ascending sizes (ties by name), floor(remaining / sources left) or all.

    The sum is exactly `budget`. Raises ValueError for a budget outside 0 to the sum of sizes.
    """
    check_budget(budget, sum(sizes.values()))
    names = sorted(sizes, key=lambda name: (sizes[name], name))
    return dict(zip(names, _equal_shares([sizes[name] for name in names], budget), strict=True))


def rows_by_group(group_N: Integers) -> dict[int, Int64]:
    """Row numbers of each group, ascending; groups ascending."""
    groups_G, start_G = np.unique(np.sort(group_N), return_index=True)
    rows = np.split(np.argsort(group_N, kind="stable"), start_G)[1:]  # the first piece is always empty
    return dict(zip(groups_G.tolist(), rows, strict=True))


def draw_rows(size: int, quota: int, rng: np.random.Generator) -> Int64:
    """`quota` of `size` positions, uniformly without replacement, ascending."""
    return np.sort(rng.choice(size, quota, replace=False)) if quota < size else np.arange(size)


def source_rng(seed: int, source: str) -> np.random.Generator:
    """The generator of one source; the empty name stands for the whole pool."""
    digest = hashlib.sha256(source.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8])])


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
        quotas.update(zip(clusters, _equal_shares([sizes[cluster] for cluster in clusters], left), strict=True))
    return quotas


def _equal_shares(ascending_sizes: Sequence[int], budget: int) -> list[int]:
    """Quotas of groups in ascending size. In any other order part of the budget may be left over."""
    quotas: list[int] = []
    for position, size in enumerate(ascending_sizes):
        quota = min(size, budget // (len(ascending_sizes) - position))
        quotas.append(quota)
        budget -= quota
    return quotas
