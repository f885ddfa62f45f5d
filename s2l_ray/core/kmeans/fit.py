"""K-means over loss trajectories: fit on all rows from a good start, then assign any rows.

The start is k-means++ and some Lloyd iterations on a seeded sample, after which few passes over all rows suffice.

Shapes: N rows, S rows of the sample, T columns, K centroids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from s2l_ray.core.arrays import Float32, Int32
from s2l_ray.core.kmeans.backends import (
    BACKENDS,
    Compute,
    KMeans,
    ProgressCallback,
    lloyd,
    open_blocks,
    resolve_backend,
    torch_device,
)
from s2l_ray.core.kmeans.cpu_blocks import single_threaded
from s2l_ray.core.kmeans.seeding import plus_plus, sample_rows


@dataclass(frozen=True)
class KMeansOptions:
    """Algorithm of a fit.

    Each of `restarts` seedings runs k-means++ and `sample_iterations` Lloyd iterations on one sample of
    `sample_per_cluster` * k rows. The one with the lowest inertia on the sample then makes at most `iterations` passes
    over all rows. `backend` makes those passes: auto, torch or cuml.
    """

    iterations: int = 5
    restarts: int = 1
    sample_per_cluster: int = 256
    sample_iterations: int = 30
    backend: str = "auto"


DEFAULTS = KMeansOptions()


def fit_kmeans(
    x_NT: ArrayLike,
    k: int,
    *,
    seed: int,
    options: KMeansOptions = DEFAULTS,
    initial_centroids_KT: Float32 | None = None,
    workers: int | None = None,
    gpu: bool | None = None,
    on_pass: ProgressCallback = lambda done, total: None,
) -> KMeans:
    """Cluster the rows of x_NT into min(k, N) clusters by Euclidean distance.

    initial_centroids_KT: replaces the start from a sample; only the passes over all rows are made. workers: CPU
    threads, by default as many as torch uses; with the torch backend any number gives the same result, bit for bit.
    gpu: False to use the CPU even if torch finds a GPU. on_pass: called after each pass over the sample, then over all
    rows, with the number of passes completed and the maximum.

    Raises ValueError for rows that are not finite, no rows, k < 1, or a backend that cannot run here.
    """
    x_NT = _finite_float32(x_NT)
    if k < 1 or options.iterations < 1 or options.restarts < 1:
        raise ValueError(
            f"k {k}, iterations {options.iterations} and restarts {options.restarts} of k-means must be at least 1"
        )
    backend, k = resolve_backend(options.backend), min(k, len(x_NT))
    compute = Compute(workers or torch.get_num_threads(), torch_device(gpu), on_pass)
    if initial_centroids_KT is None:
        initial_centroids_KT = _centroids_from_sample(x_NT, k, seed, options, compute)
    centroids_KT = np.ascontiguousarray(initial_centroids_KT, np.float32)
    if centroids_KT.shape != (k, x_NT.shape[1]):
        raise ValueError(f"initial centroids have shape {centroids_KT.shape}; expected {(k, x_NT.shape[1])}")
    return BACKENDS[backend](x_NT, centroids_KT, options.iterations, compute)


def assign_clusters(
    x_NT: ArrayLike, centroids_KT: Float32, *, workers: int | None = None, gpu: bool | None = None
) -> tuple[Int32, Float32]:
    """Label of the nearest centroid (ties go to the first) and Euclidean distance, not squared, of each row.

    Runs on the GPU if torch finds one, unless `gpu` is False, whichever backend fitted the centroids. Raises
    ValueError for rows that are not finite.
    """
    x_NT = _finite_float32(x_NT, min_rows=0)
    centroids_KT = np.ascontiguousarray(centroids_KT, np.float32)
    if x_NT.shape[1] != centroids_KT.shape[1]:
        raise ValueError(
            f"rows have {x_NT.shape[1]} columns and centroids {centroids_KT.shape[1]}; use the same checkpoints"
        )
    if len(x_NT) == 0:
        return np.empty(0, np.int32), np.empty(0, np.float32)
    with open_blocks(x_NT, Compute(workers or torch.get_num_threads(), torch_device(gpu))) as blocks:
        return blocks.nearest(centroids_KT)


def _centroids_from_sample(x_NT: Float32, k: int, seed: int, options: KMeansOptions, compute: Compute) -> Float32:
    """The best centroids of `options.restarts` fits on one sample."""
    rows = sample_rows(len(x_NT), options.sample_per_cluster * k, np.random.default_rng([seed, 0]))
    sample_ST = x_NT[rows]
    fits = []
    for restart in range(options.restarts):
        with single_threaded():
            start_KT = plus_plus(sample_ST, k, np.random.default_rng([seed, 1, restart]), compute.device)
        fits.append(lloyd(sample_ST, start_KT, options.sample_iterations, compute))
    return min(fits, key=lambda fit: fit.inertia).centroids_KT


def _finite_float32(x_NT: ArrayLike, min_rows: int = 1) -> Float32:
    """x_NT as contiguous float32. Raises ValueError for a wrong shape or a number that is not finite."""
    x_NT = np.ascontiguousarray(x_NT, np.float32)
    if x_NT.ndim != 2 or len(x_NT) < min_rows or x_NT.shape[1] == 0:
        raise ValueError(f"k-means needs rows of at least one column, not an array of shape {x_NT.shape}")
    flat_X = x_NT.ravel()
    if np.isfinite(flat_X @ flat_X):  # one pass over the data: a NaN propagates to the product
        return x_NT
    non_finite = np.flatnonzero(~np.isfinite(x_NT).all(axis=1))
    if len(non_finite):
        raise ValueError(
            f"{len(non_finite)} of {len(x_NT)} rows are not finite (first: row {non_finite[0]}); "
            "pass only rows with status ok"
        )
    return x_NT
