"""K-means backends: a table from name to Lloyd's algorithm.

All backends start from the same centroids and run plain Lloyd iterations; they differ in rounding. `auto` is cuml on a
GPU with RAPIDS, else torch, which uses a GPU if there is one.

Shapes: N rows, T columns, K centroids, E empty clusters.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from s2l_ray.core.arrays import Float32, Int32, Integers
from s2l_ray.core.kmeans.cpu_blocks import PartialSums, cpu_blocks
from s2l_ray.core.kmeans.gpu_blocks import device_blocks

# Called with the number of passes completed and the maximum number of passes.
ProgressCallback = Callable[[int, int], object]


@dataclass(frozen=True)
class Compute:
    """Compute resources of a fit: CPU threads, or `device` if that is a GPU."""

    workers: int
    device: torch.device
    on_pass: ProgressCallback = lambda done, total: None


@dataclass(frozen=True)
class KMeans:
    """A fitted model. inertia: sum over all rows of the squared distance to the nearest centroid."""

    centroids_KT: Float32
    inertia: float
    iterations: int
    empty_clusters: int
    backend: str


class Blocks(Protocol):
    """Rows in the memory of the device that processes them."""

    def sums(self, centroids_KT: Float32) -> PartialSums: ...
    def nearest(self, centroids_KT: Float32) -> tuple[Int32, Float32]: ...


def open_blocks(x_NT: Float32, compute: Compute) -> AbstractContextManager[Blocks]:
    """Rows on the GPU, or shared by CPU threads of this process."""
    if compute.device.type == "cuda":
        return nullcontext(device_blocks(x_NT, compute.device))
    return cpu_blocks(x_NT, compute.workers)


def torch_device(gpu: bool | None = None) -> torch.device:
    """The GPU if torch finds one and `gpu` is not False, else the CPU."""
    return torch.device("cuda" if gpu is not False and torch.cuda.is_available() else "cpu")


def lloyd(x_NT: Float32, centroids_KT: Float32, iterations: int, compute: Compute) -> KMeans:
    """At most `iterations` passes, fewer on convergence, and one more pass to measure the inertia.

    The centroid of an empty cluster moves to the row farthest from its centroid (the first of several), unless all
    rows equal their centroids; then it does not move. Same result for any number of workers, bit for bit.
    """
    passes, converged = 0, False
    with open_blocks(x_NT, compute) as blocks:
        while passes < iterations and not converged:
            next_KT = _next_centroids(x_NT, blocks, centroids_KT)
            converged = np.array_equal(next_KT, centroids_KT)
            passes, centroids_KT = passes + 1, next_KT
            compute.on_pass(passes, iterations)
        label_N, distance_N = blocks.nearest(centroids_KT)
    return _result(centroids_KT, np.square(distance_N, dtype=np.float64).sum(), passes, label_N, "torch")


def _next_centroids(x_NT: Float32, blocks: Blocks, centroids_KT: Float32) -> Float32:
    total = blocks.sums(centroids_KT)
    next_KT = (total.sums_KT / np.maximum(total.counts_K, 1)[:, None]).astype(np.float32)
    empty_E = np.flatnonzero(total.counts_K == 0)
    if len(empty_E):
        next_KT[empty_E] = centroids_KT[empty_E]
        distance_N = blocks.nearest(centroids_KT)[1]
        farthest_E = np.argsort(-distance_N, kind="stable")[: len(empty_E)]
        farthest_E = farthest_E[distance_N[farthest_E] > 0]
        next_KT[empty_E[: len(farthest_E)]] = x_NT[farthest_E]
    return next_KT


def _cuml_lloyd(x_NT: Float32, centroids_KT: Float32, iterations: int, compute: Compute) -> KMeans:
    """RAPIDS cuML on one GPU; does not report passes."""
    from cuml import cluster

    model = cluster.KMeans(
        n_clusters=len(centroids_KT),
        init=centroids_KT,
        n_init=1,
        max_iter=iterations,
        tol=1e-12,  # cuML rejects 0
        output_type="numpy",
    )
    model.fit(x_NT)
    return _result(model.cluster_centers_, model.inertia_, model.n_iter_, model.labels_, "cuml")


def _result(centroids_KT: Float32, inertia: float, iterations: int, label_N: Integers, backend: str) -> KMeans:
    empty_clusters = len(centroids_KT) - len(np.unique(label_N))
    return KMeans(np.asarray(centroids_KT, np.float32), float(inertia), int(iterations), empty_clusters, backend)


BACKENDS: dict[str, Callable[[Float32, Float32, int, Compute], KMeans]] = {"torch": lloyd, "cuml": _cuml_lloyd}


def resolve_backend(name: str) -> str:
    """The backend that `name` selects on this machine. Raises ValueError if it is unknown or cannot run."""
    if name == "auto":
        return "torch" if _cuml_problem() else "cuml"
    if name not in BACKENDS:
        raise ValueError(f"unknown k-means backend {name!r}; use one of auto, {', '.join(BACKENDS)}")
    if name == "cuml" and (problem := _cuml_problem()):
        raise ValueError(f"k-means backend 'cuml' cannot run here: {problem}, or use torch, which runs anywhere")
    return name


def _cuml_problem() -> str | None:
    if importlib.util.find_spec("cuml") is None:
        return "RAPIDS cuML is not installed; install the extra `gpu`"
    if not torch.cuda.is_available():  # cuML itself imports without a device and fails only in fit
        return "no CUDA device is visible; give the worker a GPU"
    return None
