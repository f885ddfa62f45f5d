"""Scores that are one recorded value, or its mean over some checkpoints.

B rows of a shard, T checkpoints
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from s2l_ray.core.arrays import Float64, Floats
from s2l_ray.core.selection.needs import COLUMN, TARGET_TOKENS, At, Needs
from s2l_ray.core.selection.ranking import OrderParams, RankParams


@dataclass(frozen=True)
class CheckpointParams(RankParams):
    """checkpoint: step at which the value is read (default: the last one recorded)."""

    checkpoint: int | None = None


@dataclass(frozen=True)
class StartParams(RankParams):
    """checkpoint: step at which the value is read (default: before training)."""

    checkpoint: int = 0


@dataclass(frozen=True)
class CheckpointsParams(RankParams):
    """checkpoints: steps over which the value is averaged (default: the last one recorded alone)."""

    checkpoints: tuple[int, ...] = ()


@dataclass(frozen=True)
class ColumnParams(OrderParams):
    """path: a Parquet file, relative to data.root, with the column `column` of numbers and, to identify the rows, a
    column `example_id`, or the columns `file` and `line`."""

    path: str = ""
    column: str = ""

    def __post_init__(self) -> None:
        if not self.path or not self.column:
            raise ValueError("method column needs path: (a Parquet file) and column: (the name of its column)")


def at_checkpoint(statistic: str) -> Callable[[CheckpointParams | StartParams], Needs]:
    """Needs of a score that is `statistic` at the checkpoint of the params."""

    def needs(params: CheckpointParams | StartParams) -> Needs:
        checkpoint = At.LAST if params.checkpoint is None else params.checkpoint
        return Needs(statistic, (checkpoint,), clusters=params.within == "clusters")

    return needs


def over_checkpoints(statistic: str) -> Callable[[CheckpointsParams], Needs]:
    """Needs of a score that is the mean of `statistic` over the checkpoints of the params."""

    def needs(params: CheckpointsParams) -> Needs:
        return Needs(statistic, params.checkpoints or (At.LAST,), clusters=params.within == "clusters")

    return needs


def needs_target_tokens(params: RankParams) -> Needs:
    return Needs(TARGET_TOKENS, clusters=params.within == "clusters")


def needs_column(params: ColumnParams) -> Needs:
    return Needs(COLUMN, clusters=params.within == "clusters")


def mean_value(value_BT: Floats, params: RankParams) -> Float64:
    """Mean over the checkpoints; NaN where a value is missing."""
    mean_B: Float64 = value_BT.mean(axis=1, dtype=np.float64)
    return mean_B
