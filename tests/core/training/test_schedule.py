"""Schedule of the published runs, checkpoint grids, data order and learning rate."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup

from s2l_ray.core.training.schedule import (
    CheckpointGrid,
    batch_indices,
    checkpoint_steps,
    learning_rate,
    sample_train,
    steps_per_epoch,
)


def test_checkpoints_of_the_published_runs() -> None:
    per_epoch = steps_per_epoch(262_040, 128)
    assert per_epoch == 2047
    steps = checkpoint_steps(CheckpointGrid(steps=500), 3 * per_epoch, per_epoch, 128)
    assert steps == [0, *range(500, 6001, 500)]
    assert len(steps) - 1 == 12
    assert checkpoint_steps(CheckpointGrid(epoch_ends=True), 3 * per_epoch, per_epoch, 128) == [0, 2047, 4094, 6141]


@pytest.mark.parametrize(
    ("grid", "steps"),
    [
        (CheckpointGrid(examples=25), [0, 2, 5, 7, 10]),
        (CheckpointGrid(fraction=0.3), [0, 3, 6, 9]),
        (CheckpointGrid(fraction=0.1), list(range(11))),
        (CheckpointGrid(log=4), [0, 1, 2, 5, 10]),
        (CheckpointGrid(log=1), [0, 10]),
        (CheckpointGrid(steps=4, epoch_ends=True), [0, 4, 5, 8, 10]),
        (CheckpointGrid(steps=11), [0]),
    ],
)
def test_checkpoint_grids(grid: CheckpointGrid, steps: list[int]) -> None:
    assert checkpoint_steps(grid, 10, 5, 10) == steps


@given(total=st.integers(1, 500), examples=st.integers(1, 2000), batch_size=st.integers(1, 64))
def test_examples_grid_is_at_or_before_each_multiple(total: int, examples: int, batch_size: int) -> None:
    steps = checkpoint_steps(CheckpointGrid(examples=examples), total, total, batch_size)
    wanted = {max(step for step in range(total + 1) if step * batch_size <= seen)
              for seen in range(examples, total * batch_size + 1, examples)}  # fmt: skip
    assert steps == sorted(wanted | {0})


@given(rows=st.integers(1, 60), batch_size=st.integers(1, 20), epoch=st.integers(0, 3), seed=st.integers(0, 5))
def test_an_epoch_visits_rows_once_and_drops_less_than_a_batch(
    rows: int, batch_size: int, epoch: int, seed: int
) -> None:
    if batch_size > rows:
        with pytest.raises(ValueError, match="batch_size"):
            steps_per_epoch(rows, batch_size)
        return
    steps = steps_per_epoch(rows, batch_size)
    seen = np.concatenate([batch_indices(rows, batch_size, epoch, step, seed) for step in range(steps)])
    assert len(set(seen.tolist())) == len(seen) == steps * batch_size > rows - batch_size
    assert set(seen.tolist()) <= set(range(rows))


def test_order_depends_on_epoch_and_seed() -> None:
    orders = [batch_indices(1000, 1000, epoch, 0, seed).tolist() for epoch in (0, 1) for seed in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert batch_indices(1000, 10, 1, 7, 1).tolist() == orders[3][70:80]


@given(rows=st.integers(1, 80), seed=st.integers(0, 3))
def test_a_sample_is_ascending_and_without_repetition(rows: int, seed: int) -> None:
    sample = sample_train(rows, max(1, rows // 2), seed).tolist()
    assert sample == sorted(set(sample)) and len(sample) == max(1, rows // 2)
    assert set(sample) <= set(range(rows)) and sample_train(rows, None, seed).tolist() == list(range(rows))


def test_sample_larger_than_the_pool_raises() -> None:
    with pytest.raises(ValueError, match="train_examples 9"):
        sample_train(8, 9, 0)


@pytest.mark.parametrize(("total", "ratio"), [(6141, 0.03), (10, 0.0), (7, 0.5), (1, 0.0)])
def test_learning_rate_matches_transformers(total: int, ratio: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-5)
    schedule = get_cosine_schedule_with_warmup(optimizer, int(np.ceil(total * ratio)), total)
    for step in range(total):
        assert learning_rate(step, total, 2e-5, ratio) == pytest.approx(schedule.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        schedule.step()


def test_schedule_does_not_import_torch() -> None:
    code = "import sys, s2l_ray.core.training.schedule; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
