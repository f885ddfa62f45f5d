"""Learning percentage (arXiv 2402.10430), on perplexities P = exp(loss)."""

import numpy as np
from numpy.typing import ArrayLike

from s2l_ray.core.arrays import Float64


def learning_percentage(losses_NT: ArrayLike, *, start: int = 0, first: int, last: int) -> Float64:
    """LP(1) = (P_0 - P_1) / (P_0 - P_n); 0 where the denominator is 0.

    start, first, last: the columns before training, after epoch 1, and at the end. Low means hard. The value leaves
    [0, 1] where later epochs raise the perplexity. Ratios beyond float64 are clipped to its range. Raises ValueError
    for a loss that is not finite.
    """
    losses_N3 = np.asarray(losses_NT, np.float64)[:, [start, first, last]]
    if not np.isfinite(losses_N3).all():
        raise ValueError("learning percentage needs finite losses; pass only rows with status ok")
    to_first_N = losses_N3[:, 1] - losses_N3[:, 0]
    to_last_N = losses_N3[:, 2] - losses_N3[:, 0]
    scale_N = np.maximum(np.maximum(to_first_N, to_last_N), 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio_N = _relative_change(to_first_N, scale_N) / _relative_change(to_last_N, scale_N)
    largest = np.finfo(np.float64).max
    return np.where(to_last_N == 0, 0.0, np.clip(ratio_N, -largest, largest))


def _relative_change(change_N: Float64, scale_N: Float64) -> Float64:
    """(exp(change) - 1) / exp(scale) for scale >= max(change, 0), without overflow and exact for small changes."""
    grown_N = -np.exp(np.maximum(change_N, 0) - scale_N) * np.expm1(-np.maximum(change_N, 0))
    shrunk_N = np.exp(-scale_N) * np.expm1(np.minimum(change_N, 0))
    return np.where(change_N > 0, grown_N, shrunk_N)
