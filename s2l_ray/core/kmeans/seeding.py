"""Greedy k-means++ seeding (Arthur and Vassilvitskii 2007).

Shapes: S rows of the sample, C candidates, T columns, K centroids.
"""

import math

import numpy as np
import torch

from s2l_ray.core.arrays import Float32, Int64

# After 30 iterations on the sample, seeds from 256 rows per cluster are no better and cost four times as much.
ROWS_PER_SEED = 64


def sample_rows(rows: int, size: int, rng: np.random.Generator) -> Int64:
    """Ascending row numbers of a uniform sample without replacement; all rows if there are at most `size`."""
    if rows <= size:
        return np.arange(rows)
    return np.sort(rng.choice(rows, size, replace=False))


def plus_plus(x_ST: Float32, k: int, rng: np.random.Generator, device: torch.device) -> Float32:
    """Initial centroids: k rows, each drawn with probability proportional to its squared distance to the nearest seed.

    Each draw has 2 + log(k) candidates and keeps the one that minimises the sum of squared distances. Candidates come
    from a sample of ROWS_PER_SEED * k rows of x_ST. If fewer than k rows are distinct, seeds repeat.
    """
    x_ST = x_ST[sample_rows(len(x_ST), ROWS_PER_SEED * k, rng)]
    rows = torch.from_numpy(x_ST).to(device)
    centered_ST = rows - rows.double().mean(0).float()
    square_S = centered_ST.square().sum(1)
    candidates = 2 + int(math.log(k))
    chosen = [torch.tensor(int(rng.integers(len(rows))), device=device)]
    closest_S = _square_distances(centered_ST, square_S, chosen[0][None])[0]
    while len(chosen) < k:
        cumulative_S = closest_S.cumsum(0, dtype=torch.float64)
        draw_C = torch.from_numpy(rng.random(candidates)).to(device) * cumulative_S[-1]
        row_C = torch.searchsorted(cumulative_S, draw_C, right=True).clamp(max=len(rows) - 1)
        remaining_CS = _square_distances(centered_ST, square_S, row_C).minimum(closest_S)
        best = remaining_CS.sum(1, dtype=torch.float64).argmin()
        chosen.append(row_C[best])
        closest_S = remaining_CS[best]
    row_K: Int64 = torch.stack(chosen).cpu().numpy()
    return x_ST[row_K]


def _square_distances(centered_ST: torch.Tensor, square_S: torch.Tensor, row_C: torch.Tensor) -> torch.Tensor:
    distance_CS = (centered_ST[row_C] @ centered_ST.T).mul_(-2).add_(square_S).add_(square_S[row_C, None])
    return distance_CS.clamp_(min=0).scatter_(1, row_C[:, None], 0.0)
