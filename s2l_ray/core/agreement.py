"""Agreement of two subsets, two rankings or two clusterings of the same rows. N rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from s2l_ray.core.arrays import Int64

# Shares of the rows that are ranked first, in percent, for which the overlap of two rankings is computed.
SHARES = (1, 5, 10, 33)


@dataclass(frozen=True)
class SetAgreement:
    """Rows of two subsets, and those in both. Ratios are None where their denominator is 0.

    overlap: shared rows over the rows of the smaller subset. jaccard: shared rows over the rows of the union.
    """

    first: int
    second: int
    shared: int
    overlap: float | None
    jaccard: float | None


@dataclass(frozen=True)
class RankAgreement:
    """Agreement of two rankings of `rows` rows; None where it is not defined, as for a constant score.

    spearman, kendall: rank correlations; Kendall's tau-b accounts for ties. overlaps: by share in percent, the part
    of the rows ranked first by one that the other ranks first too. left_out: rows without a finite score in both.
    """

    rows: int
    left_out: int
    spearman: float | None
    kendall: float | None
    overlaps: dict[int, float | None]


def set_agreement(first: int, second: int, shared: int) -> SetAgreement:
    """Agreement of two sets of these sizes, of which `shared` elements are in both."""
    smaller, union = min(first, second), first + second - shared
    return SetAgreement(first, second, shared, shared / smaller if smaller else None, shared / union if union else None)


def rank_agreement(first_N: ArrayLike, second_N: ArrayLike, shares: Sequence[int] = SHARES) -> RankAgreement:
    """Agreement of two scores of the same rows, of which the lowest are ranked first.

    Rows whose score is not finite in either are left out. Equal scores at the border of a share are ranked in order of
    the rows.
    """
    from scipy.stats import kendalltau, spearmanr

    both_N2 = np.stack([np.asarray(first_N, np.float64), np.asarray(second_N, np.float64)], axis=1)
    ranked_M2 = both_N2[np.isfinite(both_N2).all(axis=1)]
    rows = len(ranked_M2)
    constant = rows < 2 or bool((ranked_M2 == ranked_M2[:1]).all(axis=0).any())
    spearman = None if constant else float(spearmanr(ranked_M2[:, 0], ranked_M2[:, 1]).statistic)
    kendall = None if constant else float(kendalltau(ranked_M2[:, 0], ranked_M2[:, 1]).statistic)
    order_M2 = np.argsort(ranked_M2, axis=0, kind="stable")
    overlaps = {share: _overlap(order_M2, share) for share in shares}
    return RankAgreement(rows, len(both_N2) - rows, spearman, kendall, overlaps)


def _overlap(order_M2: Int64, share: int) -> float | None:
    """Part of the first `share` percent of the rows of one order that is also in the other's."""
    number = share * len(order_M2) // 100
    first_M, second_M = order_M2[:number].T
    return len(np.intersect1d(first_M, second_M, assume_unique=True)) / number if number else None


def adjusted_rand_index(first_N: ArrayLike, second_N: ArrayLike) -> float:
    """Agreement of two clusterings of the same rows: 1 for equal clusters, about 0 for independent ones.

    (pairs - expected) / (mean - expected), where `pairs` counts the pairs of rows that share a cluster in both, and
    `mean` is the mean of the pairs that share one in each (Hubert and Arabie, 1985).
    """
    _, first_N, size_K = np.unique(np.asarray(first_N), return_inverse=True, return_counts=True)
    _, second_N, size_L = np.unique(np.asarray(second_N), return_inverse=True, return_counts=True)
    size_C = np.unique(first_N.astype(np.int64) * len(size_L) + second_N, return_counts=True)[1]
    in_both, in_first, in_second = _pairs(size_C), _pairs(size_K), _pairs(size_L)
    all_pairs = len(first_N) * (len(first_N) - 1) / 2
    expected = in_first * in_second / all_pairs if all_pairs else 0.0
    mean = (in_first + in_second) / 2
    return 1.0 if mean == expected else (in_both - expected) / (mean - expected)


def _pairs(size_K: Int64) -> float:
    """Number of pairs of rows inside groups of these sizes."""
    return float((size_K * (size_K - 1.0) / 2).sum())
