"""Settings of a training and the steps that follow from them. Free of torch, so that the driver can use them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from s2l_ray.core.training.schedule import CheckpointGrid, checkpoint_steps, steps_per_epoch

# The instruction to the training loop after a step.
Signal = Literal["continue", "save", "save and stop"]
SIGNALS: tuple[Signal, ...] = ("continue", "save", "save and stop")


@dataclass(frozen=True)
class FinetuneSettings:
    """Hyperparameters of the proxy's training. Fields from micro_batch on change the result by rounding only.

    shard: use FSDP2. attention: "auto" packs rows if the check passes (packed_check.py), "padded" never packs.
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
    attention: Literal["auto", "padded"] = "auto"


def total_steps(train_rows: int, settings: FinetuneSettings) -> int:
    """Number of optimizer steps of the training."""
    return settings.epochs * steps_per_epoch(train_rows, settings.batch_size)


def grid_steps(train_rows: int, settings: FinetuneSettings) -> list[int]:
    """Steps that are checkpoints, ascending, step 0 first."""
    per_epoch = steps_per_epoch(train_rows, settings.batch_size)
    return checkpoint_steps(settings.grid, per_epoch * settings.epochs, per_epoch, settings.batch_size)
