"""Loss trajectories: the columns of single checkpoints side by side, and the choice among them.

In: nll_sum and target_tokens of every example, one column a checkpoint. Out: x_NT, its loss at each of T checkpoints,
and which rows are whole. A loss that is missing stays NaN and its row is not ok; it never becomes a number.

Shapes: N examples, T checkpoints, C chosen columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from s2l_ray.core.arrays import Bool, Float32, Float64, Integers


def stack_losses(nll_sum_TN: Sequence[Float64], target_tokens_N: Integers) -> tuple[Float32, Bool]:
    """(x_NT, ok_N): loss = nll_sum / target_tokens, formed in float64, kept in float32; ok where all T are finite.

    A missing nll_sum is NaN. Rows without a target token have no loss at any checkpoint. ValueError if the columns
    differ in length.
    """
    lengths = [len(column) for column in nll_sum_TN]
    if not lengths or set(lengths) != {len(target_tokens_N)}:
        raise ValueError(f"loss columns hold {lengths} rows and target_tokens {len(target_tokens_N)}; score them again")
    tokens_N = np.where(target_tokens_N > 0, target_tokens_N, np.nan)
    x_NT = np.empty((len(tokens_N), len(lengths)), np.float32)
    for column, nll_sum_N in enumerate(nll_sum_TN):
        x_NT[:, column] = np.asarray(nll_sum_N, np.float64) / tokens_N
    return x_NT, complete_rows(x_NT)


def complete_rows(x_NT: Float32) -> Bool:
    """ok_N: whether all of a row's losses are finite numbers."""
    return np.asarray(np.isfinite(x_NT).all(axis=1))


def choose_columns(checkpoints: str | Sequence[int], steps: Sequence[int]) -> list[int]:
    """Columns of the checkpoints asked for, in the order of `steps`, the optimiser step of each column.

    `all`, `trained` (without step 0) or a list of steps. ValueError names the steps that there are.
    """
    if checkpoints == "all":
        return list(range(len(steps)))
    if checkpoints == "trained":
        wanted = {step for step in steps if step > 0}
    elif isinstance(checkpoints, str):
        raise ValueError(f"checkpoints: {checkpoints!r} is unknown; write all, trained or a list of steps")
    else:
        wanted = set(checkpoints)
    missing = sorted(wanted - set(steps))
    if missing or not wanted:
        raise ValueError(f"checkpoints: no step {missing or checkpoints}; recorded are {list(steps)}")
    return [column for column, step in enumerate(steps) if step in wanted]


def thin_columns(columns: Sequence[int], count: int) -> list[int]:
    """At most `count` of the columns, evenly spaced, with the first and the last (if count is 1, the last)."""
    if count < 1:
        raise ValueError(f"cannot thin {len(columns)} checkpoints to {count}; keep at least 1")
    if count >= len(columns):
        return list(columns)
    if count == 1:
        return [columns[-1]]
    return [columns[index * (len(columns) - 1) // (count - 1)] for index in range(count)]
