"""Settings and schedule of a training: steps, checkpoints, data order and learning rate.

Everything is a function of counts, a seed and a position, so a training is the same for any number of workers and can
resume at any step. A step is one update of the weights from one global batch; step 0 is before training. Free of torch,
so that the driver can use it.

N rows, M rows trained on, B rows of a global batch
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from s2l_ray.core.arrays import Int64

# Independent random streams of one seed.
SAMPLE, ORDER = 1, 2
# The instruction to the training loop after a step.
Signal = Literal["continue", "save", "save and stop"]
SIGNALS: tuple[Signal, ...] = ("continue", "save", "save and stop")


@dataclass(frozen=True)
class CheckpointGrid:
    """Steps that are checkpoints: the union of the fields that are set.

    steps: every `steps` steps. examples: the last step at or before each multiple of `examples` examples seen.
    fraction: every `fraction` of the training. log: `log` steps in geometric progression from the first to the last.
    epoch_ends: the last step of each epoch. initial: step 0, which a training without steps has in any case.
    """

    steps: int | None = None
    examples: int | None = None
    fraction: float | None = None
    log: int | None = None
    epoch_ends: bool = False
    initial: bool = True


@dataclass(frozen=True)
class FinetuneSettings:
    """Hyperparameters of a training. Fields from micro_batch to attention change the result by rounding only.

    shard: use FSDP2. attention: "auto" packs rows if the check passes (packed_check.py), "padded" never packs.
    steps: of the whole training, which may end within an epoch or take more of them; None: those of `epochs`.
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
    steps: int | None = None


@dataclass(frozen=True)
class LoraSettings:
    """Adapters of a model (see lora.py). r: rank. alpha: scale times r.

    target_modules: names of the layers, or their last parts; empty: all linear ones. There is no dropout, as everywhere
    in training.
    """

    r: int
    alpha: int
    target_modules: tuple[str, ...] = ()


def sample_train(rows: int, train_examples: int | None, seed: int) -> Int64:
    """The rows to train on, in order: all for None, else `train_examples` of them drawn by `seed`.

    Raises ValueError if there are fewer.
    """
    if train_examples is None:
        return np.arange(rows)
    if train_examples > rows:
        raise ValueError(f"train_examples {train_examples} exceeds the {rows} rows to train on; lower it")
    return np.sort(np.random.default_rng([seed, SAMPLE]).permutation(rows)[:train_examples])


def steps_per_epoch(train_rows: int, batch_size: int) -> int:
    """Full batches in an epoch; remaining rows are dropped. Raises ValueError if there is no full batch."""
    if batch_size > train_rows:
        raise ValueError(f"batch_size {batch_size} exceeds the {train_rows} rows to train on; lower it")
    return train_rows // batch_size


def checkpoint_steps(grid: CheckpointGrid, total_steps: int, steps_per_epoch: int, batch_size: int) -> list[int]:
    """The steps of the grid within [0, total_steps], ascending."""
    steps = {0} if grid.initial or not total_steps else set()
    if grid.steps:
        steps.update(range(grid.steps, total_steps + 1, grid.steps))
    if grid.examples:
        steps.update(seen // batch_size for seen in range(grid.examples, total_steps * batch_size + 1, grid.examples))
    if grid.fraction:
        # 1e-9: ten steps of 0.1 reach the end although 0.1 has no exact binary form
        count = math.floor(1 / grid.fraction + 1e-9)
        steps.update(round(total_steps * grid.fraction * number) for number in range(1, count + 1))
    if grid.log:
        steps.update(
            np.rint(np.geomspace(total_steps if grid.log == 1 else 1, total_steps, grid.log)).astype(int).tolist()
        )
    if grid.epoch_ends:
        steps.update(range(steps_per_epoch, total_steps + 1, steps_per_epoch))
    return sorted(steps)


def total_steps(train_rows: int, settings: FinetuneSettings) -> int:
    """Steps of a whole training."""
    per_epoch = steps_per_epoch(train_rows, settings.batch_size)
    return per_epoch * settings.epochs if settings.steps is None else settings.steps


def grid_steps(train_rows: int, settings: FinetuneSettings) -> list[int]:
    """Steps that are checkpoints, ascending."""
    per_epoch = steps_per_epoch(train_rows, settings.batch_size)
    return checkpoint_steps(settings.grid, total_steps(train_rows, settings), per_epoch, settings.batch_size)


def batch_indices(train_rows: int, batch_size: int, epoch: int, step_in_epoch: int, seed: int) -> Int64:
    """Rows of one global batch, [B]: a slice of the epoch's seeded permutation of the M rows."""
    start = step_in_epoch * batch_size
    return _epoch_order(train_rows, epoch, seed)[start : start + batch_size]


@lru_cache(maxsize=1)
def _epoch_order(train_rows: int, epoch: int, seed: int) -> Int64:
    order = np.random.default_rng([seed, ORDER, epoch]).permutation(train_rows)
    order.setflags(write=False)
    return order


def learning_rate(step: int, total_steps: int, peak: float, warmup_ratio: float) -> float:
    """Learning rate of the update from `step` to `step + 1`: linear warmup from 0 to `peak`, then cosine decay to 0.

    Equal to transformers' `cosine` schedule with `warmup_ratio`, which the published runs used: with warmup, the first
    update has rate 0.
    """
    warmup_steps = math.ceil(total_steps * warmup_ratio)
    if step < warmup_steps:
        return peak * step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
