"""Oracles for selections: balancing and ranking as naive simulations, and pools made for tests."""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from statistics import median

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


def largest_remainder(sizes: Sequence[int], budget: int) -> list[int]:
    """Quotas in proportion to sizes, one unit at a time to the group that is farthest below its share."""
    shares = [Fraction(budget * size, max(1, sum(sizes))) for size in sizes]
    quotas = [int(share) for share in shares]
    while sum(quotas) < budget:
        best = max(range(len(sizes)), key=lambda group: (shares[group] - quotas[group], -group))
        quotas[best] += 1
    return quotas


def ranked(scores: Sequence[float], ids: Sequence[str], taken: str) -> list[int]:
    """Row numbers in the order in which a method takes them; for `middle`, in ascending order."""
    center = median(scores) if taken == "nearest_median" else 0.0
    key = {
        "lowest": lambda row: scores[row],
        "middle": lambda row: scores[row],
        "highest": lambda row: -scores[row],
        "nearest_median": lambda row: float(np.float32(abs(scores[row] - center))),
    }[taken]
    return sorted(range(len(scores)), key=lambda row: (key(row), ids[row]))


def counts(labels: np.ndarray) -> dict[int, int]:
    """Number of rows by label."""
    return dict(Counter(labels.tolist()))


def prefixes(ids: Sequence[str]) -> np.ndarray:
    """The first eight bytes of each id as a number."""
    return np.array([int.from_bytes(one.encode()[:8].ljust(8, b"\0"), "big") for one in ids], np.uint64)


def pool_of(sizes: dict[str, int], clusters: int, group_by: str = "source") -> Pool:
    """Rows of the sources in a shuffled order, with every column: clusters numbered over the run and sources in name
    order, and scores with many ties."""
    rng = np.random.default_rng(0)
    names = sorted(sizes)
    source_N = rng.permutation(np.repeat(np.arange(len(names)), [sizes[name] for name in names]))
    cluster_N = source_N * clusters + rng.integers(0, clusters, len(source_N))
    rows = len(source_N)
    ids = [f"{number:032x}" for number in rng.permutation(rows)]
    return Pool(
        names,
        source_N,
        cluster_N,
        group_by,
        score_N=rng.integers(0, 50, rows).astype(np.float32),
        prefix_N=prefixes(ids),
        read_ids=lambda index_M: [ids[row] for row in index_M.tolist()],
        target_tokens_N=rng.integers(1, 200, rows),
        feature_ND=rng.gamma(2, 1, (rows, 3)).astype(np.float32),
    )
