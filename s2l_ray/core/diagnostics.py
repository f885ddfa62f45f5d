"""Diagnostics of loss trajectories: flags of suspicious rows, and the plane of largest variance.

B rows of a shard, N rows, T checkpoints, S rows of one source
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from s2l_ray.core.arrays import Bool, Float32, Float64, Integers, UInt64
from s2l_ray.core.selection.balancing import rows_by_group

# a source with fewer rows has no outliers
LEAST_ROWS = 20
# smallest share of its highest loss by which a row has to fall to count as learned, in `learned_then_lost`
LEARNED_SHARE = 0.25
RISE_SHARE = 0.05
SIMILAR_SHARE = 0.05
NO_TEXT = 0
SMALLEST_LOSS = 1e-6


@dataclass(frozen=True)
class TrajectoryStatistics:
    """Statistics of trajectories over the trained checkpoints.

    mean: of the loss. early, last: loss at the first and the last checkpoint. lowest: smallest loss. peak: largest loss
    up to the smallest one.
    """

    mean_N: Float32
    early_N: Float32
    last_N: Float32
    lowest_N: Float32
    peak_N: Float32


@dataclass(frozen=True)
class Flag:
    """A suspicious property of a trajectory. severity: of each row, by which the worst rows come first."""

    definition: str
    flagged: Callable[[TrajectoryStatistics, Integers], Bool]
    severity: Callable[[TrajectoryStatistics], Float32]


def trajectory_statistics(loss_BT: Float32) -> TrajectoryStatistics:
    """Statistics of trajectories of trained checkpoints, in order of their steps."""
    at_B = loss_BT.argmin(axis=1)
    up_to_lowest_BT = np.where(np.arange(loss_BT.shape[1]) <= at_B[:, None], loss_BT, -np.inf)
    return TrajectoryStatistics(
        loss_BT.mean(axis=1),
        loss_BT[:, 0],
        loss_BT[:, -1],
        loss_BT.min(axis=1),
        up_to_lowest_BT.max(axis=1).astype(np.float32),
    )


def joined(parts: list[TrajectoryStatistics]) -> TrajectoryStatistics:
    """The statistics of several shards."""
    names = [column.name for column in fields(TrajectoryStatistics)]
    empty = np.empty(0, np.float32)
    return TrajectoryStatistics(*(np.concatenate([empty, *(getattr(one, name) for one in parts)]) for name in names))


def outliers(value_N: Float32, source_N: Integers) -> Bool:
    """Values above the upper fence of Tukey in their source: the third quartile + 1.5 interquartile ranges."""
    above_N = np.zeros(len(value_N), bool)
    for rows_S in rows_by_group(source_N).values():
        if len(rows_S) >= LEAST_ROWS:
            first, third = np.nanquantile(value_N[rows_S], [0.25, 0.75])
            above_N[rows_S] = value_N[rows_S] > third + 1.5 * (third - first)
    return above_N


def _earliness(known: TrajectoryStatistics) -> Float32:
    earliness_N: Float32 = -np.log(np.maximum(known.early_N, SMALLEST_LOSS))
    return earliness_N


def _lost(known: TrajectoryStatistics, source_N: Integers) -> Bool:
    fall_N, rise_N = known.peak_N - known.lowest_N, known.last_N - known.lowest_N
    lost_N: Bool = (fall_N > 0) & (fall_N >= LEARNED_SHARE * known.peak_N) & (rise_N > fall_N / 2)
    return lost_N


FLAGS: dict[str, Flag] = {
    "never_learned": Flag(
        "The lowest loss of the row is an outlier among those of its source: more than 1.5 interquartile ranges above "
        "the third quartile.",
        lambda known, source_N: outliers(known.lowest_N, source_N),
        lambda known: known.lowest_N,
    ),
    "learned_then_lost": Flag(
        "The loss fell by at least a quarter and then rose by more than half of that fall, up to the last checkpoint.",
        _lost,
        lambda known: known.last_N - known.lowest_N,
    ),
    "learned_at_once": Flag(
        "The loss at the first trained checkpoint is unusually low for the source: its logarithm is more than 1.5 "
        "interquartile ranges below the first quartile.",
        lambda known, source_N: outliers(_earliness(known), source_N),
        lambda known: -known.early_N,
    ),
    "rising_loss": Flag(
        "The loss at the last checkpoint is more than 5 % above that at the first trained one.",
        lambda known, source_N: known.last_N > (1 + RISE_SHARE) * known.early_N,
        lambda known: known.last_N - known.early_N,
    ),
}


NEAR_DUPLICATE = (
    "Another row has the same prompt and response but for case, digits, punctuation and spaces, and a mean loss that "
    "differs by at most 5 %."
)


def near_duplicates(text_N: UInt64, mean_N: Float32) -> tuple[Bool, Float32]:
    """Rows with another row of equal text_N and similar mean_N, and their smallest difference in mean_N.

    text_N: hashes, or NO_TEXT. The difference of other rows is infinite.
    """
    order_N = np.lexsort((mean_N, text_N))
    gap = np.diff(mean_N[order_N])
    equal = (text_N[order_N][1:] == text_N[order_N][:-1]) & (text_N[order_N][1:] != NO_TEXT)
    similar = equal & (gap <= SIMILAR_SHARE * np.abs(mean_N[order_N][1:]))
    gap = np.where(similar, gap, np.inf).astype(np.float32)
    gap_N = np.full(len(mean_N), np.inf, np.float32)
    gap_N[order_N[1:]] = gap
    gap_N[order_N[:-1]] = np.minimum(gap_N[order_N[:-1]], gap)
    return np.isfinite(gap_N), gap_N


@dataclass(frozen=True)
class Plane:
    """The plane of the two largest principal components. explained: its share of the variance."""

    mean_T: Float64
    axis_T2: Float64
    explained: float

    def project(self, loss_BT: Float32) -> Float32:
        """Coordinates of trajectories, (B, 2)."""
        coordinate_B2: Float32 = ((loss_BT - self.mean_T) @ self.axis_T2).astype(np.float32)
        return coordinate_B2


class Moments:
    """Sums over rows, from which the principal components follow without holding the rows."""

    def __init__(self, checkpoints: int) -> None:
        self._rows = 0
        self._sum_T = np.zeros(checkpoints)
        self._products_TT = np.zeros((checkpoints, checkpoints))

    def add(self, loss_BT: Float32) -> None:
        values = loss_BT.astype(np.float64)
        self._rows += len(values)
        self._sum_T += values.sum(axis=0)
        self._products_TT += values.T @ values

    def plane(self) -> Plane:
        """The plane of largest variance; each axis points so that its largest component is positive."""
        mean_T = self._sum_T / max(1, self._rows)
        covariance_TT = self._products_TT / max(1, self._rows) - np.outer(mean_T, mean_T)
        variance_T, vector_TT = np.linalg.eigh(covariance_TT)  # ascending
        variance_T = np.maximum(variance_T, 0)
        axis_T2 = np.zeros((len(mean_T), 2))
        for axis in range(min(2, len(mean_T))):
            largest_T = vector_TT[:, -1 - axis]
            axis_T2[:, axis] = largest_T * np.sign(largest_T[np.abs(largest_T).argmax()])
        total = float(variance_T.sum())
        return Plane(mean_T, axis_T2, float(variance_T[-2:].sum()) / total if total else 0.0)
