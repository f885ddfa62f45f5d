"""Who makes the full passes of k-means: a table from name to function.

In: rows x_NT, first centroids_KT, a number of passes. Out: a `KMeans`. All backends start from the same centroids and
run plain Lloyd iterations; they differ in rounding. `auto` is cuml on a GPU with RAPIDS, else torch, which uses a GPU
if there is one.

Shapes: N rows, T columns, K centroids, E empty clusters.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from s2l_ray.core.arrays import Float32, Int32, Integers
from s2l_ray.core.kmeans.cpu_blocks import PartialSums, cpu_blocks
from s2l_ray.core.kmeans.gpu_blocks import device_blocks

OnPass = Callable[[int, int], object]
"""Is told how many passes are done, and how many there can be."""


def unheard(done: int, total: int) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class How:
    """By what the work is done: so many CPU threads, or the device if that is a GPU."""

    workers: int
    device: torch.device
    on_pass: OnPass = unheard


@dataclass(frozen=True)
class KMeans:
    """A fit. `inertia` is the sum over all rows of the squared distance to the nearest of `centroids_KT`."""

    centroids_KT: Float32
    inertia: float
    iterations: int
    empty_clusters: int
    backend: str

    @property
    def k(self) -> int:
        """The clusters there are: no more than there were rows."""
        return len(self.centroids_KT)


class Blocks(Protocol):
    """Rows at the place where they are worked."""

    def sums(self, centroids_KT: Float32) -> PartialSums: ...
    def nearest(self, centroids_KT: Float32) -> tuple[Int32, Float32]: ...


@contextmanager
def place(x_NT: Float32, how: How) -> Iterator[Blocks]:
    """The rows where they are worked: on the GPU, or in threads of this process."""
    if how.device.type == "cuda":
        yield device_blocks(x_NT, how.device)
    else:
        with cpu_blocks(x_NT, how.workers) as blocks:
            yield blocks


def torch_device(gpu: bool | None = None) -> torch.device:
    """The GPU if torch sees one and it is not to be the CPU."""
    return torch.device("cuda" if gpu is not False and torch.cuda.is_available() else "cpu")


def lloyd(x_NT: Float32, centroids_KT: Float32, iterations: int, how: How) -> KMeans:
    """At most `iterations` passes, fewer if the centroids come to rest, and one more to measure the inertia.

    A cluster that has lost all its rows is moved to the row farthest from its centroid (of several, the first), as long
    as there is one that is not on its centroid; else it stays where it is. Same bits for any number of workers.
    """
    passes, at_rest = 0, False
    with place(x_NT, how) as blocks:
        while passes < iterations and not at_rest:
            next_KT = _next_centroids(x_NT, blocks, centroids_KT)
            at_rest = np.array_equal(next_KT, centroids_KT)
            passes, centroids_KT = passes + 1, next_KT
            how.on_pass(passes, iterations)
        label_N, distance_N = blocks.nearest(centroids_KT)
    return _summary(centroids_KT, np.square(distance_N, dtype=np.float64).sum(), passes, label_N, "torch")


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


def _sklearn_lloyd(x_NT: Float32, centroids_KT: Float32, iterations: int, how: How) -> KMeans:
    """scikit-learn's own loop, which tells of no pass.

    Its threads add up in any order: the last bits may differ with more than one worker.
    """
    from sklearn import cluster, exceptions

    model = cluster.KMeans(
        len(centroids_KT), init=centroids_KT, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd"
    )
    with threadpool_limits(how.workers), warnings.catch_warnings():
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)  # fewer distinct rows than k: counted below
        model.fit(x_NT)
    return _summary(model.cluster_centers_, model.inertia_, model.n_iter_, model.labels_, "sklearn")


def _cuml_lloyd(x_NT: Float32, centroids_KT: Float32, iterations: int, how: How) -> KMeans:
    """RAPIDS cuML on one GPU, which tells of no pass."""
    from cuml import cluster

    model = cluster.KMeans(
        n_clusters=len(centroids_KT),
        init=centroids_KT,
        n_init=1,
        max_iter=iterations,
        tol=1e-12,  # cuML refuses 0
        output_type="numpy",
    )
    model.fit(x_NT)
    return _summary(model.cluster_centers_, model.inertia_, model.n_iter_, model.labels_, "cuml")


def _summary(centroids_KT: Float32, inertia: float, iterations: int, label_N: Integers, name: str) -> KMeans:
    empty_clusters = len(centroids_KT) - len(np.unique(label_N))
    return KMeans(np.asarray(centroids_KT, np.float32), float(inertia), int(iterations), empty_clusters, name)


BACKENDS: dict[str, Callable[[Float32, Float32, int, How], KMeans]] = {
    "torch": lloyd,
    "sklearn": _sklearn_lloyd,
    "cuml": _cuml_lloyd,
}


def resolve_backend(name: str) -> str:
    """The backend that `name` means on this machine; ValueError where it cannot run."""
    if name == "auto":
        return "torch" if _why_no_cuml() else "cuml"
    if name not in BACKENDS:
        raise ValueError(f"k-means backend {name!r} is unknown; write one of auto, {', '.join(BACKENDS)}")
    if name == "cuml" and (problem := _why_no_cuml()):
        raise ValueError(f"k-means backend 'cuml' cannot run here: {problem}; or write torch, which runs anywhere")
    return name


def _why_no_cuml() -> str | None:
    if importlib.util.find_spec("cuml") is None:
        return "RAPIDS cuML is not installed; install the extra `gpu`"
    if not torch.cuda.is_available():  # cuML itself imports without a device and fails only in fit
        return "no CUDA device is visible; give the worker a GPU"
    return None
