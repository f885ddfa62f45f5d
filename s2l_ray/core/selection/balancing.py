"""The balancing rules: equal shares in ascending order of size (S2L), and shares in proportion to size.

Ascending order is what makes the result meet the budget exactly: whatever a small group leaves goes to larger ones.
N rows, M rows selected, G groups.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from s2l_ray.core.arrays import Int64, Integers

Drawn = tuple[Int64, float]
"""Rows of one group, ascending, and the probability of each."""


def balanced_sample(labels_N: ArrayLike, budget: int, rng: np.random.Generator, *, min_cluster_size: int = 1) -> Int64:
    """Draw exactly `budget` row numbers, ascending, spread over clusters as evenly as their sizes allow.

    Clusters in ascending size (ties by id) receive floor(remaining / clusters left), or all they have if that is less,
    drawn uniformly without replacement: arXiv 2403.07384, Alg. 1. Clusters below `min_cluster_size` follow all others,
    by the same rule. Takes one integer from `rng`; cluster c then draws from default_rng([that integer, c]), so that
    its draw depends on its own rows and quota alone. Raises ValueError for a budget outside 0 to N or a negative label.
    """
    drawn = balanced_draws(np.asarray(labels_N), budget, rng, min_cluster_size=min_cluster_size)
    return np.sort(np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in drawn)]))


def balanced_draws(
    labels_N: Integers,
    budget: int,
    rng: np.random.Generator,
    *,
    min_cluster_size: int = 1,
    weight_N: Integers | None = None,
) -> list[Drawn]:
    """Draws of `balanced_sample`, one a cluster, with their inclusion probabilities.

    weight_N: tokens of each row; then sizes, budget and quotas count tokens, and a draw ends before it exceeds its
    quota.
    """
    if len(labels_N) and labels_N.min() < 0:
        raise ValueError(f"label {labels_N.min()} is negative; pass only rows that have a cluster")
    entropy = int(rng.integers(2**63))
    rows_by_cluster = rows_by_group(labels_N)
    sizes = {cluster: amount_of(rows, weight_N) for cluster, rows in rows_by_cluster.items()}
    check_budget(budget, sum(sizes.values()))
    tiny = {cluster for cluster, rows in rows_by_cluster.items() if len(rows) < min_cluster_size}
    quotas = _cluster_quotas(sizes, budget, tiny)
    return [
        draw(rows, quotas[cluster], np.random.default_rng([entropy, cluster]), weight_N)
        for cluster, rows in rows_by_cluster.items()
    ]


def source_budgets(sizes: Mapping[str, int], budget: int) -> dict[str, int]:
    """Quotas of the sources: ascending sizes (ties by name), floor(remaining / sources left) or all.

    The sum is exactly `budget`. Raises ValueError for a budget outside 0 to the sum of sizes.
    """
    check_budget(budget, sum(sizes.values()))
    names = sorted(sizes, key=lambda name: (sizes[name], name))
    return dict(zip(names, _equal_shares([sizes[name] for name in names], budget), strict=True))


def proportional_quotas(sizes: Sequence[int], budget: int) -> list[int]:
    """Quotas in proportion to the sizes by largest remainder, ties by position. The sum is exactly `budget`.

    Raises ValueError for a budget outside 0 to the sum of sizes.
    """
    total = sum(sizes)
    check_budget(budget, total)
    quotas = [budget * size // total if total else 0 for size in sizes]
    left = budget - sum(quotas)
    by_remainder = sorted(range(len(sizes)), key=lambda group: (-(budget * sizes[group] % max(total, 1)), group))
    for group in by_remainder[:left]:
        quotas[group] += 1
    return quotas


def rows_by_group(group_N: Integers) -> dict[int, Int64]:
    """Row numbers of each group, ascending; groups ascending."""
    groups_G, start_G = np.unique(np.sort(group_N), return_index=True)
    rows = np.split(np.argsort(group_N, kind="stable"), start_G)[1:]  # the first piece is always empty
    return dict(zip(groups_G.tolist(), rows, strict=True))


def draw(rows_G: Int64, quota: int, rng: np.random.Generator, weight_N: Integers | None = None) -> Drawn:
    """Draw rows uniformly without replacement, and the share that was drawn.

    With weight_N the rows come in random order, until the next one would exceed the quota.
    """
    if weight_N is None:
        drawn = rows_G[draw_rows(len(rows_G), quota, rng)]
    elif quota >= amount_of(rows_G, weight_N):
        drawn = rows_G
    else:
        order_G = rng.permutation(len(rows_G))
        drawn = np.sort(rows_G[order_G[within(weight_N[rows_G[order_G]], quota)]])
    return drawn, len(drawn) / max(1, len(rows_G))


def draw_rows(size: int, quota: int, rng: np.random.Generator) -> Int64:
    """`quota` of `size` positions, uniformly without replacement, ascending."""
    return np.sort(rng.choice(size, quota, replace=False)) if quota < size else np.arange(size)


def within(weight_K: Integers, quota: int) -> slice:
    """The longest prefix of rows whose weights sum to at most `quota`."""
    return slice(0, int(np.searchsorted(np.cumsum(weight_K, dtype=np.int64), quota, side="right")))


def amount_of(rows_G: Integers, weight_N: Integers | None) -> int:
    """Size of a group in rows, or in tokens."""
    return len(rows_G) if weight_N is None else int(weight_N[rows_G].sum(dtype=np.int64))


def source_rng(seed: int, source: str) -> np.random.Generator:
    """The generator of one source; the empty name stands for the whole pool."""
    digest = hashlib.sha256(source.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8])])


def check_budget(budget: int, available: int) -> None:
    """ValueError unless 0 <= budget <= available."""
    if budget < 0:
        raise ValueError(f"budget {budget} is negative; set select.budget to at least 0")
    if budget > available:
        raise ValueError(f"budget {budget} exceeds the {available} available; set select.budget to at most {available}")


def _cluster_quotas(sizes: Mapping[int, int], budget: int, tiny: set[int]) -> dict[int, int]:
    order = sorted(sizes, key=lambda cluster: (sizes[cluster], cluster))
    quotas: dict[int, int] = {}
    for clusters in (
        [cluster for cluster in order if cluster not in tiny],
        [cluster for cluster in order if cluster in tiny],
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
