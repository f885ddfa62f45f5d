"""Training log: step and checkpoint records, convertible to tensors.

The tables are part of the resume state, so a resumed training has its whole history. A loss that was not measured is
None in a record and NaN in a table.

S steps, C checkpoints
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass, field, fields
from typing import TypeVar

import torch

from s2l_ray.core.training.records import CheckpointRecord, StepRecord

INTEGER_FIELDS = {"step", "examples_seen", "tokens", "target_tokens"}

Record = TypeVar("Record", StepRecord, CheckpointRecord)


@dataclass
class History:
    """All records of a training so far, in order."""

    steps: list[StepRecord] = field(default_factory=list)
    checkpoints: list[CheckpointRecord] = field(default_factory=list)

    def training_loss(self) -> float | None:
        """Loss per target token over the steps since the last checkpoint; None if there were no steps."""
        since = self.checkpoints[-1].step if self.checkpoints else 0
        recent = self.steps[since:]
        tokens = sum(record.target_tokens for record in recent)
        return sum(record.loss * record.target_tokens for record in recent) / tokens if tokens else None

    def tables(self) -> dict[str, torch.Tensor]:
        """`steps` [S, columns] and `checkpoints` [C, columns] in float64; columns are the fields of the records."""
        return {
            "steps": _to_table(self.steps, StepRecord),
            "checkpoints": _to_table(self.checkpoints, CheckpointRecord),
        }

    @classmethod
    def from_tables(cls, tables: dict[str, torch.Tensor]) -> History:
        """Restore the history that `tables` was called on."""
        return cls(
            _from_table(tables["steps"], StepRecord),
            _from_table(tables["checkpoints"], CheckpointRecord),
        )


def _to_table(records: list[Record], record_type: type[Record]) -> torch.Tensor:
    rows = [[math.nan if value is None else value for value in astuple(record)] for record in records]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, len(fields(record_type)))


def _from_table(table: torch.Tensor, record_type: type[Record]) -> list[Record]:
    make: Callable[..., Record] = record_type
    names = [column.name for column in fields(record_type)]
    return [make(*map(_from_float, names, row)) for row in table.tolist()]


def _from_float(name: str, value: float) -> int | float | None:
    if math.isnan(value):
        return None
    return int(value) if name in INTEGER_FIELDS else value
