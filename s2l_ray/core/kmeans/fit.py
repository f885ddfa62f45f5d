"""K-means over loss trajectories: fit on all rows from a good start, then label any rows.

In: rows x_NT (loss trajectories, one row an example), k and a seed. Out: centroids_KT; labels and distances.
The start is k-means++ and some Lloyd iterations on a seeded sample, which leaves little for the full passes to do.
Backends are in kmeans_backends.py; the inner loop is in kmeans_blocks.py (CPU) and kmeans_device.py (CUDA).

Shapes: N rows, S rows of the sample, T columns, K centroids.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike

from s2l_ray.core.arrays import Float32, Int32
from s2l_ray.core.kmeans.backends import (
    BACKENDS,
    How,
    KMeans,
    OnPass,
    lloyd,
    place,
    resolve_backend,
    torch_device,
    unheard,
)
from s2l_ray.core.kmeans.cpu_blocks import single_threaded
from s2l_ray.core.kmeans.seeding import plus_plus, sample_rows

__all__ = ["BACKENDS", "KMeans", "assign_clusters", "fit_kmeans", "resolve_backend"]


def fit_kmeans(
    x_NT: ArrayLike,
    k: int,
    *,
    seed: int,
    iterations: int = 5,
    restarts: int = 1,
    backend: str = "auto",
    sample_per_cluster: int = 256,
    sample_iterations: int = 30,
    initial_centroids_KT: Float32 | None = None,
    workers: int | None = None,
    gpu: bool | None = None,
    on_pass: OnPass = unheard,
) -> KMeans:
    """Cluster the rows of x_NT into min(k, N) clusters by Euclidean distance.

    Each of `restarts` seedings runs k-means++ and `sample_iterations` Lloyd iterations on one sample of
    `sample_per_cluster` * k rows; the best of them there then makes at most `iterations` passes over all rows.
    `initial_centroids_KT` takes the place of all that: only the passes are made. `workers` is the number of CPU threads
    (default: as many as torch uses); with the torch backend the result is the same, bit for bit, for any number. `gpu`:
    False for the CPU even where torch sees a GPU.
    `on_pass` is told the passes that are done, over the sample and then over all rows, and how many there can be.

    Raises ValueError for rows that are not finite, no rows, k < 1, or a backend that cannot run here.
    """
    x_NT = _checked(x_NT)
    if k < 1 or iterations < 1 or restarts < 1:
        raise ValueError(f"k-means needs k, iterations and restarts of at least 1, not {k}, {iterations}, {restarts}")
    backend, k = resolve_backend(backend), min(k, len(x_NT))
    how = How(workers or torch.get_num_threads(), torch_device(gpu), on_pass)
    if initial_centroids_KT is None:
        sample_ST = x_NT[sample_rows(len(x_NT), sample_per_cluster * k, np.random.default_rng([seed, 0]))]
        starts = [_sample_fit(sample_ST, k, [seed, 1, restart], sample_iterations, how) for restart in range(restarts)]
        initial_centroids_KT = min(starts, key=lambda start: start.inertia).centroids_KT
    centroids_KT = np.ascontiguousarray(initial_centroids_KT, np.float32)
    if centroids_KT.shape != (k, x_NT.shape[1]):
        raise ValueError(f"initial centroids have shape {centroids_KT.shape}; {(k, x_NT.shape[1])} is needed")
    return BACKENDS[backend](x_NT, centroids_KT, iterations, how)


def assign_clusters(
    x_NT: ArrayLike, centroids_KT: Float32, *, workers: int | None = None, gpu: bool | None = None
) -> tuple[Int32, Float32]:
    """Label of the nearest centroid (of equally near ones the first) and Euclidean distance, not squared, of each row.

    Runs on the GPU if torch sees one, unless `gpu` is False, whichever backend made the centroids. ValueError for rows
    that are not finite.
    """
    x_NT = _checked(x_NT, least_rows=0)
    centroids_KT = np.ascontiguousarray(centroids_KT, np.float32)
    if x_NT.shape[1] != centroids_KT.shape[1]:
        raise ValueError(
            f"rows have {x_NT.shape[1]} columns and centroids {centroids_KT.shape[1]}; use the same checkpoints"
        )
    if len(x_NT) == 0:
        return np.empty(0, np.int32), np.empty(0, np.float32)
    with place(x_NT, How(workers or torch.get_num_threads(), torch_device(gpu))) as blocks:
        return blocks.nearest(centroids_KT)


def _sample_fit(sample_ST: Float32, k: int, entropy: list[int], iterations: int, how: How) -> KMeans:
    with single_threaded():
        start_KT = plus_plus(sample_ST, k, np.random.default_rng(entropy), how.device)
    return lloyd(sample_ST, start_KT, iterations, how)


def _checked(x_NT: ArrayLike, least_rows: int = 1) -> Float32:
    """x_NT as contiguous finite float32."""
    x_NT = np.ascontiguousarray(x_NT, np.float32)
    if x_NT.ndim != 2 or len(x_NT) < least_rows or x_NT.shape[1] == 0:
        raise ValueError(f"k-means needs rows of at least one column, not an array of shape {x_NT.shape}")
    flat_X = x_NT.ravel()
    if np.isfinite(flat_X @ flat_X):  # one reading; a NaN is carried along
        return x_NT
    bad = np.flatnonzero(~np.isfinite(x_NT).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(x_NT)} rows are not finite (first: row {bad[0]}); pass only rows with status ok"
        )
    return x_NT
