"""When training does what: steps, checkpoints, the order of the data, the learning rate, the held-out rows.

In: counts, a seed and a position. Out: numbers and row indices that depend on nothing else, so the same training can be
laid out for any number of workers, and taken up again at any step.
A step is one update of the weights from one global batch. Step s = 0 is before training.

N rows, M rows trained on, H rows held out, B rows of a global batch
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from s2l_ray.core.arrays import Int64

HELD_OUT, SAMPLE, ORDER = 0, 1, 2
"""The streams of random numbers that one seed gives."""


@dataclass(frozen=True)
class CheckpointGrid:
    """Which steps are checkpoints: the union of what is asked for, and step 0 always.

    steps: every so many steps. examples: the last step at or before every multiple of so many examples seen.
    fraction: every such fraction of the training. log: so many steps at equal ratios, from the first to the last.
    epoch_ends: the last step of each epoch.
    """

    steps: int | None = None
    examples: int | None = None
    fraction: float | None = None
    log: int | None = None
    epoch_ends: bool = False


def split_held_out(rows_ok: int, held_out: int, seed: int) -> tuple[Int64, Int64]:
    """Split N rows into (train_index_M, held_out_index_H), both ascending; the held-out ones are drawn by `seed`.

    Raises ValueError where no row would be left to train on.
    """
    if held_out >= rows_ok:
        raise ValueError(f"held_out {held_out} leaves no row of {rows_ok} to train on; lower it")
    drawn = np.random.default_rng([seed, HELD_OUT]).permutation(rows_ok)[:held_out]
    held_out_index_H = np.sort(drawn)
    return np.setdiff1d(np.arange(rows_ok), held_out_index_H, assume_unique=True), held_out_index_H


def sample_train(train_index: Int64, train_examples: int | None, seed: int) -> Int64:
    """The rows of train_index that are trained on: all for None, else `train_examples` drawn by `seed`, in order.

    Raises ValueError where there are fewer.
    """
    if train_examples is None:
        return train_index
    if train_examples > len(train_index):
        raise ValueError(f"train_examples {train_examples} exceeds the {len(train_index)} rows to train on; lower it")
    drawn = np.random.default_rng([seed, SAMPLE]).permutation(len(train_index))[:train_examples]
    return train_index[np.sort(drawn)]


def steps_per_epoch(train_rows: int, batch_size: int) -> int:
    """Whole batches in an epoch; the rest of the rows is left out. Raises ValueError where there is none."""
    if batch_size > train_rows:
        raise ValueError(f"batch_size {batch_size} exceeds the {train_rows} rows to train on; lower it")
    return train_rows // batch_size


def checkpoint_steps(grid: CheckpointGrid, total_steps: int, steps_per_epoch: int, batch_size: int) -> list[int]:
    """The steps of the grid within [0, total_steps], ascending, step 0 first."""
    steps = {0}
    if grid.steps:
        steps.update(range(grid.steps, total_steps + 1, grid.steps))
    if grid.examples:
        steps.update(seen // batch_size for seen in range(grid.examples, total_steps * batch_size + 1, grid.examples))
    if grid.fraction:
        # 1e-9: a tenth taken ten times is the whole, whatever its binary form
        count = math.floor(1 / grid.fraction + 1e-9)
        steps.update(round(total_steps * grid.fraction * number) for number in range(1, count + 1))
    if grid.log:
        steps.update(
            np.rint(np.geomspace(total_steps if grid.log == 1 else 1, total_steps, grid.log)).astype(int).tolist()
        )
    if grid.epoch_ends:
        steps.update(range(steps_per_epoch, total_steps + 1, steps_per_epoch))
    return sorted(steps)


def batch_indices(train_rows: int, batch_size: int, epoch: int, step_in_epoch: int, seed: int) -> Int64:
    """Rows of one global batch, [B]: a piece of the epoch's own seeded permutation of the M rows."""
    start = step_in_epoch * batch_size
    return _epoch_order(train_rows, epoch, seed)[start : start + batch_size]


@lru_cache(maxsize=1)
def _epoch_order(train_rows: int, epoch: int, seed: int) -> Int64:
    order = np.random.default_rng([seed, ORDER, epoch]).permutation(train_rows)
    order.setflags(write=False)
    return order


def learning_rate(step: int, total_steps: int, peak: float, warmup_ratio: float) -> float:
    """The rate of the update that leads from `step` to `step + 1`: linear from 0 to `peak`, then half a cosine to 0.

    As transformers' `cosine` schedule with `warmup_ratio`, which the published runs used: the first update has rate 0
    where there is a warm-up.
    """
    warmup_steps = math.ceil(total_steps * warmup_ratio)
    if step < warmup_steps:
        return peak * step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
