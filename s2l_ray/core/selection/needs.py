"""Columns that a method reads besides example_id, source and status, known before anything is read or trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal


class At(Enum):
    """A checkpoint that is named by its position in the training."""

    FIRST = "the first recorded checkpoint"
    FIRST_EPOCH_END = "the checkpoint at the end of the first epoch"
    LAST = "the last recorded checkpoint"
    TRAINED = "every checkpoint but step 0"


Features = Literal["trajectories", "embeddings"]
# A position, or an optimizer step.
Checkpoint = At | int
TARGET_TOKENS, COLUMN = "target_tokens", "column"
NOT_SCORED = (TARGET_TOKENS, COLUMN)
"""Quantities that exist without a proxy model."""


@dataclass(frozen=True)
class Needs:
    """Columns of the pool that a method reads.

    quantity: a statistic of scoring, `target_tokens`, or `column` (a column of the user's file). checkpoints: at which
    a statistic is read. clusters: cluster ids. features: vectors kept in memory, for methods that compare rows.
    without_targets: rows with status no_target_tokens are part of the pool.
    """

    quantity: str | None = None
    checkpoints: tuple[Checkpoint, ...] = ()
    clusters: bool = False
    target_tokens: bool = False
    features: Features | None = None
    without_targets: bool = False

    @property
    def statistic(self) -> str | None:
        """The quantity if scoring records it."""
        return self.quantity if self.quantity not in NOT_SCORED else None

    @property
    def reads_lengths(self) -> bool:
        return self.target_tokens or self.quantity == TARGET_TOKENS

    def inputs(self, clustered: Features = "trajectories") -> tuple[str, ...]:
        """The kinds of artifact that hold the columns; the dataset always. clustered: what clusters are made from.

        Where losses are read or clustered, the pool is the rows that have them.
        """
        read = self.statistic is not None or self.features == "trajectories"
        scored = read or (self.clusters and clustered == "trajectories")
        embedded = ("embeddings",) if self.features == "embeddings" else ()
        return ("dataset", *embedded, *(("trajectories",) if scored else ()), *(("clusters",) if self.clusters else ()))


@dataclass(frozen=True)
class RecordedSteps:
    """Optimizer steps of the checkpoints, ascending, and those that end an epoch; None where that is not known."""

    steps: Sequence[int]
    epoch_ends: Sequence[int] | None = None

    def columns(self, checkpoints: Sequence[Checkpoint]) -> list[int]:
        """Positions in `steps` of the checkpoints, in their order. Raises ValueError for one that was not recorded."""
        return [column for checkpoint in checkpoints for column in self._columns_of(checkpoint)]

    def _columns_of(self, checkpoint: Checkpoint) -> list[int]:
        if isinstance(checkpoint, int):
            if checkpoint not in self.steps:
                raise ValueError(f"step {checkpoint} is not among the recorded steps {list(self.steps)}")
            return [self.steps.index(checkpoint)]
        if checkpoint is At.FIRST_EPOCH_END:
            return [self._first_epoch_end()]
        every = list(range(len(self.steps)))
        columns = {
            At.FIRST: every[:1],
            At.LAST: every[-1:],
            At.TRAINED: [column for column in every if self.steps[column] > 0],
        }[checkpoint]
        if not columns:
            raise ValueError(f"{checkpoint.value} is missing; recorded are the steps {list(self.steps)}")
        return columns

    def _first_epoch_end(self) -> int:
        if self.epoch_ends is None:
            raise ValueError("it is not known which step ends the first epoch; write the step as select.first")
        ends = [step for step in self.steps if step in self.epoch_ends]
        if not ends or ends[0] != min(self.epoch_ends):
            raise ValueError(
                "no checkpoint ends the first epoch; add epoch_ends: true to proxy.checkpoints, or write a recorded "
                f"step as select.first (recorded are {list(self.steps)})"
            )
        return list(self.steps).index(ends[0])
