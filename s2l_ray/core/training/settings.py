"""A training in plain values, for those who plan, start and watch it without torch.

In: what the job asks for. Out: `FinetuneSettings`, and the steps that follow from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from s2l_ray.core.training.schedule import CheckpointGrid, checkpoint_steps, steps_per_epoch

Signal = Literal["go on", "save", "save and stop"]
"""What the loop is told after a step."""
SIGNALS: tuple[Signal, ...] = ("go on", "save", "save and stop")


@dataclass(frozen=True)
class FinetuneSettings:
    """How the proxy is trained. micro_batch and what follows it change the rounding at most.

    shard: FSDP2. path: "auto" packs rows where that proves right (core/training_proof.py), "plain" pads them.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    precision: Literal["float32", "bfloat16"]
    grid: CheckpointGrid
    seed: int
    micro_batch: int
    gradient_checkpointing: bool = False
    shard: bool = False
    path: Literal["auto", "plain"] = "auto"


def total_steps(train_rows: int, settings: FinetuneSettings) -> int:
    """Steps of the whole training."""
    return settings.epochs * steps_per_epoch(train_rows, settings.batch_size)


def grid_steps(train_rows: int, settings: FinetuneSettings) -> list[int]:
    """Steps of the whole training that are checkpoints, ascending, step 0 first."""
    per_epoch = steps_per_epoch(train_rows, settings.batch_size)
    return checkpoint_steps(settings.grid, per_epoch * settings.epochs, per_epoch, settings.batch_size)
