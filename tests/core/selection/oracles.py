"""Oracles for selections: the balancing rule as a naive simulation, and pools made for tests."""

from collections import Counter
from fractions import Fraction

import numpy as np

from s2l_ray.core.selection.pool import Pool

SIZES = {"large": 900, "middle": 300, "small": 40}


def oracle_counts(labels: list[int], budget: int, min_cluster_size: int) -> dict[int, int]:
    """Rows to draw from each cluster, without zeros.

    Takes the smallest cluster left, adds rows one by one while they are within an equal share of what is left, and
    repeats until no cluster is left.
    """
    sizes = Counter(labels)
    drawn = dict.fromkeys(sizes, 0)
    large = {label for label in sizes if sizes[label] >= min_cluster_size}
    remaining = budget
    for group in (large, set(sizes) - large):
        while group:
            smallest = min(group, key=lambda label: (sizes[label], label))
            while drawn[smallest] < sizes[smallest] and drawn[smallest] + 1 <= Fraction(remaining, len(group)):
                drawn[smallest] += 1
            remaining -= drawn[smallest]
            group.remove(smallest)
    return {label: count for label, count in drawn.items() if count}


def counts(labels: np.ndarray) -> dict[int, int]:
    """Number of rows by label."""
    return dict(Counter(labels.tolist()))


def pool_of(sizes: dict[str, int], clusters: int, group_by: str = "source") -> Pool:
    """Rows of the sources in a shuffled order, with clusters numbered over the run and sources in name order."""
    rng = np.random.default_rng(0)
    names = sorted(sizes)
    source_N = rng.permutation(np.repeat(np.arange(len(names)), [sizes[name] for name in names]))
    cluster_N = source_N * clusters + rng.integers(0, clusters, len(source_N))
    return Pool(names, source_N, cluster_N, group_by=group_by)
