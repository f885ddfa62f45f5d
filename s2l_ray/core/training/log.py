"""What happened in a training: one record a step, one a checkpoint.

In: records, as they come. Out: float64 tables that travel in the resume state and end as the artefact's training
tables, so that a resumed training has a whole history. A loss that was not measured is None in a record and NaN in a
table.

S steps, C checkpoints
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, field, fields
from typing import Any

import torch

from s2l_ray.core.training.records import CheckpointRecord, StepRecord

INTEGERS = {"step", "examples_seen", "tokens", "target_tokens"}


@dataclass
class History:
    """All records of a training so far, in order."""

    steps: list[StepRecord] = field(default_factory=list)
    checkpoints: list[CheckpointRecord] = field(default_factory=list)

    def training_loss(self) -> float | None:
        """Loss per target token over the steps since the last checkpoint; None where there was none."""
        since = self.checkpoints[-1].step if self.checkpoints else 0
        recent = self.steps[since:]
        tokens = sum(record.target_tokens for record in recent)
        return sum(record.loss * record.target_tokens for record in recent) / tokens if tokens else None

    def tables(self) -> dict[str, torch.Tensor]:
        """`steps` [S, columns] and `checkpoints` [C, columns] in float64, columns as the fields of the records."""
        return {
            "steps": _table(self.steps, len(fields(StepRecord))),
            "checkpoints": _table(self.checkpoints, len(fields(CheckpointRecord))),
        }

    @classmethod
    def from_tables(cls, tables: dict[str, torch.Tensor]) -> History:
        """The records that `tables` made."""
        return cls(
            [StepRecord(**row) for row in _rows(tables["steps"], StepRecord)],
            [CheckpointRecord(**row) for row in _rows(tables["checkpoints"], CheckpointRecord)],
        )


def _table(records: list[StepRecord] | list[CheckpointRecord], columns: int) -> torch.Tensor:
    rows = [[math.nan if value is None else value for value in astuple(record)] for record in records]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, columns)


def _rows(table: torch.Tensor, record: type[StepRecord] | type[CheckpointRecord]) -> list[dict[str, Any]]:
    names = [column.name for column in fields(record)]
    return [{name: _value(name, value) for name, value in zip(names, row, strict=True)} for row in table.tolist()]


def _value(name: str, value: float) -> int | float | None:
    if math.isnan(value):
        return None
    return int(value) if name in INTEGERS else value
