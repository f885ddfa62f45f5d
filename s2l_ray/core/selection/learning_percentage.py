"""Learning percentage (arXiv 2402.10430), on perplexities P = exp(loss)."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from s2l_ray.core.arrays import Float64, Floats
from s2l_ray.core.selection.needs import At, Checkpoint, Needs
from s2l_ray.core.selection.pool import Pool, Selection, ranked_selection
from s2l_ray.core.selection.ranking import RankParams, groups_of, lowest


@dataclass(frozen=True)
class FirstEpochParams(RankParams):
    """start, first: steps before training and at the end of the first epoch (default: the first that was recorded)."""

    start: int = 0
    first: int | None = None


@dataclass(frozen=True)
class LearningPercentageParams(FirstEpochParams):
    """last: step at the end of training (default: the last one recorded).

    compat: `official` selects as the official code does: rows without target tokens have the value 0, and of each group
    the first part of numpy.array_split into round(100 / percentage) parts is selected.
    """

    last: int | None = None
    compat: Literal["official"] | None = None


def needs(params: LearningPercentageParams) -> Needs:
    last = At.LAST if params.last is None else params.last
    official = params.compat == "official"
    return Needs("loss", (*_first_epoch(params), last), clusters=params.within == "clusters", without_targets=official)


def needs_of_approximation(params: FirstEpochParams) -> Needs:
    return Needs("loss", _first_epoch(params), clusters=params.within == "clusters")


def learning_percentage(losses_NT: ArrayLike, *, start: int = 0, first: int, last: int) -> Float64:
    """LP(1) = (P_0 - P_1) / (P_0 - P_n); 0 where the denominator is 0.

    start, first, last: the columns before training, after epoch 1, and at the end. Low means hard. The value leaves
    [0, 1] where later epochs raise the perplexity. Ratios beyond float64 are clipped to its range. Raises ValueError
    for a loss that is not finite.
    """
    losses_N3 = np.asarray(losses_NT, np.float64)[:, [start, first, last]]
    if not np.isfinite(losses_N3).all():
        raise ValueError("learning percentage needs finite losses; pass only rows with status ok")
    to_first_N = losses_N3[:, 1] - losses_N3[:, 0]
    to_last_N = losses_N3[:, 2] - losses_N3[:, 0]
    scale_N = np.maximum(np.maximum(to_first_N, to_last_N), 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio_N = _relative_change(to_first_N, scale_N) / _relative_change(to_last_N, scale_N)
    largest = np.finfo(np.float64).max
    return np.where(to_last_N == 0, 0.0, np.clip(ratio_N, -largest, largest))


def score(loss_N3: Floats, params: LearningPercentageParams) -> Float64:
    """LP(1) of each row; NaN where a loss is missing, or 0 under compat. Lowest first: arXiv 2402.10430."""
    finite_N = np.isfinite(loss_N3).all(axis=1)
    value_N = np.full(len(loss_N3), 0.0 if params.compat == "official" else np.nan)
    value_N[finite_N] = learning_percentage(loss_N3[finite_N], first=1, last=2)
    return value_N


def score_of_approximation(loss_N2: Floats, params: FirstEpochParams) -> Float64:
    """LP_app(1) = (P_0 - P_1) / P_0 = 1 - exp(l_1 - l_0). Lowest first: arXiv 2402.10430."""
    change_N: Float64 = loss_N2[:, 1].astype(np.float64) - loss_N2[:, 0]
    with np.errstate(over="ignore"):
        return np.maximum(-np.expm1(change_N), -np.finfo(np.float64).max)


def select_as_official(pool: Pool, share: Fraction, params: LearningPercentageParams) -> Selection:
    """The first part of every group in ascending order, of round(1 / share) parts by numpy.array_split.

    A group of n rows gives ceil(n / parts) rows, so that small groups give more than the share. A row without a cluster
    is in no group, and is counted.
    """
    if pool.score_N is None:
        raise ValueError("learning_percentage needs a score for every row and the pool has none")
    parts, usable_M = round(1 / share), np.flatnonzero(pool.usable())
    missing = {"missing_values": len(pool) - len(usable_M)} if len(usable_M) < len(pool) else {}
    usable = pool.take(usable_M)
    taken = [lowest(usable, rows_G, -(-len(rows_G) // parts)) for rows_G in groups_of(usable, params.within)]
    index_M = usable_M[np.concatenate([np.empty(0, np.int64), *taken])]
    return ranked_selection(index_M, pool.score_N[index_M], {"parts": parts, **missing})


def _first_epoch(params: FirstEpochParams) -> tuple[Checkpoint, Checkpoint]:
    return params.start, At.FIRST_EPOCH_END if params.first is None else params.first


def _relative_change(change_N: Float64, scale_N: Float64) -> Float64:
    """(exp(change) - 1) / exp(scale) for scale >= max(change, 0), without overflow and exact for small changes."""
    grown_N = -np.exp(np.maximum(change_N, 0) - scale_N) * np.expm1(-np.maximum(change_N, 0))
    shrunk_N = np.exp(-scale_N) * np.expm1(np.minimum(change_N, 0))
    return np.where(change_N > 0, grown_N, shrunk_N)
