"""Linear scores of which the largest belongs to the nearest centroid, and where float32 is too coarse for them.

|x - c|^2 = |x|^2 - 2 (x . c - |c|^2 / 2), and |x|^2 is the same for all centroids. So are x . m and |m|^2 for any point
m: subtracting them makes the products smaller, hence the rounding, at no cost per row. m is the median of the
centroids, which centroids of a few outliers do not move.

Shapes: M rows, T columns, K centroids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from s2l_ray.core.arrays import Bool, Float32, Float64

FLOAT32_ROUNDING = 2.0**-24
# Largest rounding of a score relative to the squared distance of two centroids; 4e-6 to 3e-4 for loss trajectories.
MAX_RELATIVE_ROUNDING = 5e-4


@dataclass(frozen=True)
class LinearScores:
    """argmax_k (x . weights_k + bias_k) is the centroid nearest to x.

    coarse_K: centroids whose scores float32 may confuse with those of the centroid next to them. A row that float32
    assigns to one of them is assigned again in float64.
    """

    weights_KT: Float64
    bias_K: Float64
    coarse_K: Bool

    @property
    def any_coarse(self) -> bool:
        return bool(self.coarse_K.any())


def linear_scores(centroids_KT: Float32) -> LinearScores:
    centroids64_KT = centroids_KT.astype(np.float64)
    median_T = np.median(centroids64_KT, axis=0)
    weights_KT = centroids64_KT - median_T
    bias_K = -0.5 * ((centroids64_KT + median_T) * weights_KT).sum(axis=1)
    size_K = np.linalg.norm(centroids64_KT, axis=1) + np.linalg.norm(median_T)
    rounding_K = FLOAT32_ROUNDING * size_K * np.linalg.norm(weights_KT, axis=1)
    coarse_K = rounding_K > MAX_RELATIVE_ROUNDING * _square_distance_to_next(weights_KT)
    return LinearScores(weights_KT, bias_K, coarse_K)


def _square_distance_to_next(points_KT: Float64) -> Float32:
    """Squared distance of each point to the nearest other one, infinite for a single point; in float32, for speed."""
    points = torch.from_numpy(points_KT.astype(np.float32))
    square_K = points.square().sum(1)
    distance_KK = torch.addmm(square_K, points, points.T, alpha=-2).add_(square_K[:, None])
    next_K: Float32 = distance_KK.fill_diagonal_(torch.inf).amin(1).clamp_(min=0).numpy()
    return next_K
