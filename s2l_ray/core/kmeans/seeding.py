"""Where k-means starts: k-means++ (Arthur and Vassilvitskii 2007), with greedy choice among candidates.

In: the rows of a sample x_ST and a seeded generator. Out: k of the rows as first centroids.

Shapes: S rows of the sample, C candidates, T columns, K centroids.
"""

import math

import numpy as np
import torch

from s2l_ray.core.arrays import Float32, Int64

ROWS_PER_SEED = 64  # after 30 iterations on the sample, seeds from 256 rows a cluster are no better and cost four times


def sample_rows(rows: int, size: int, rng: np.random.Generator) -> Int64:
    """Row numbers of a uniform sample without replacement, ascending; all rows if there are no more than `size`."""
    if rows <= size:
        return np.arange(rows)
    return np.sort(rng.choice(rows, size, replace=False))


def plus_plus(x_ST: Float32, k: int, rng: np.random.Generator, device: torch.device) -> Float32:
    """k of the rows, each drawn with probability proportional to its squared distance from the nearest one so far.

    Of 2 + log(k) candidates a draw, the one that leaves the smallest sum of squared distances is taken. Candidates come
    from `ROWS_PER_SEED` * k rows of x_ST. Where fewer than k rows differ, the rest are copies.
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
