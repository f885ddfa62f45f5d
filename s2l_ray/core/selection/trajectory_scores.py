"""Scores computed from the values of several checkpoints.

A score function maps value_BT, one recorded quantity of B rows at T checkpoints, to one number a row: NaN where a value
is missing.
"""

from dataclasses import dataclass

import numpy as np

from s2l_ray.core.arrays import Float64, Floats
from s2l_ray.core.selection.needs import At, Checkpoint, Needs
from s2l_ray.core.selection.ranking import Order, OrderParams, RankParams


@dataclass(frozen=True)
class FirstLastParams(RankParams):
    """first, last: steps of the two checkpoints (default: the first and the last one recorded)."""

    first: int | None = None
    last: int | None = None


@dataclass(frozen=True)
class ConfidenceParams(OrderParams):
    """order: `lowest` selects the rows of which the model is least confident."""

    order: Order = "lowest"


@dataclass(frozen=True)
class ForgettingParams(RankParams):
    """margin: a fall of token accuracy by more than this is one forgetting."""

    margin: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 1:
            raise ValueError(f"margin is {self.margin}; write a number from 0 to 1")


def needs_first_and_last(params: FirstLastParams) -> Needs:
    ends: tuple[Checkpoint, Checkpoint] = (
        At.FIRST if params.first is None else params.first,
        At.LAST if params.last is None else params.last,
    )
    return Needs("loss", ends, clusters=params.within == "clusters")


def needs_probability(params: RankParams) -> Needs:
    return Needs("mean_probability", (At.TRAINED,), clusters=params.within == "clusters")


def needs_accuracy(params: RankParams) -> Needs:
    return Needs("token_accuracy", (At.TRAINED,), clusters=params.within == "clusters")


def learnability(loss_B2: Floats, params: FirstLastParams) -> Float64:
    """l_first - l_last. Highest first: the baseline "high learnability" of arXiv 2403.07384."""
    fall_B: Float64 = loss_B2[:, 0].astype(np.float64) - loss_B2[:, 1]
    return fall_B


def loss_drop(loss_B2: Floats, params: FirstLastParams) -> Float64:
    """(l_first - l_last) / l_first, 0 where l_first is 0, of a proxy trained on a target task.

    Highest first: arXiv 2605.09404.
    """
    fall_B = learnability(loss_B2, params)
    score_B: Float64 = np.divide(fall_B, loss_B2[:, 0], out=fall_B * 0.0, where=loss_B2[:, 0] != 0)
    return score_B


def variability(probability_BT: Floats, params: OrderParams) -> Float64:
    """Standard deviation over trained checkpoints of the mean probability of the target tokens.

    Highest first: dataset cartography, arXiv 2009.10795.
    """
    deviation_B: Float64 = probability_BT.std(axis=1, dtype=np.float64)
    return deviation_B


def confidence(probability_BT: Floats, params: OrderParams) -> Float64:
    """Mean over trained checkpoints of the mean probability of the target tokens.

    Lowest first: dataset cartography, arXiv 2009.10795.
    """
    mean_B: Float64 = probability_BT.mean(axis=1, dtype=np.float64)
    return mean_B


def forgetting(accuracy_BT: Floats, params: ForgettingParams) -> Float64:
    """Number of times that token accuracy falls by more than the margin between successive trained checkpoints.

    A row whose accuracy never exceeds 0.5 counts as most forgotten: T, more than any count. Highest first: arXiv
    1812.05159, for token accuracy.
    """
    accuracy_BT = accuracy_BT.astype(np.float64)
    falls_BT = accuracy_BT[:, :-1] - accuracy_BT[:, 1:] > params.margin
    never_learned_B = accuracy_BT.max(axis=1) <= 0.5
    count_B = np.where(never_learned_B, accuracy_BT.shape[1], falls_BT.sum(axis=1)).astype(np.float64)
    return np.where(np.isnan(accuracy_BT).any(axis=1), np.nan, count_B)
