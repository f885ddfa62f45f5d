"""K-means assignment and centroid sums on CPU threads.

Rows are split into blocks of fixed size; one thread computes a block, and block sums are added in block order, so the
result does not depend on the number of threads, bit for bit. Within a block, tiles of rows are small enough for their
scores to stay in cache.

Shapes: N rows, B rows of a block, R rows of a tile, T columns, K centroids.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from s2l_ray.core.arrays import Float32, Float64, Int32, Int64
from s2l_ray.core.kmeans.linear_scores import LinearScores, linear_scores
from s2l_ray.core.onednn_linear import onednn_linear

BLOCK_ROWS = 16_384
# Half a megabyte of float32, to share a core's cache with the rows.
TILE_SCORES = 1 << 17

Result = TypeVar("Result")


@dataclass(frozen=True)
class PartialSums:
    """Sum and number of the rows nearest to each centroid, over some of the rows."""

    sums_KT: Float64
    counts_K: Int64

    def __add__(self, other: PartialSums) -> PartialSums:
        return PartialSums(self.sums_KT + other.sums_KT, self.counts_K + other.counts_K)


def merge(parts: Iterable[PartialSums]) -> PartialSums:
    """Sum the parts from left to right. The order determines the rounding."""
    return functools.reduce(PartialSums.__add__, parts)


def partial_sums(x_BT: Float32, scores: LinearScores) -> PartialSums:
    """Sums and counts of the rows nearest to each centroid; ties go to the first centroid.

    Deterministic for a fixed number of BLAS threads; `cpu_blocks` sets it to one.
    """
    label_B = np.empty(len(x_BT), np.int64)
    clusters, columns = scores.weights_KT.shape
    sums_KT = torch.zeros((clusters, columns), dtype=torch.float64)
    x64_RT = np.empty((_tile_rows(clusters), columns))
    for tile in _nearest_by_tile(x_BT, scores, label_B):
        size = tile.stop - tile.start
        x64_RT[:size] = x_BT[tile]
        sums_KT.index_add_(0, torch.from_numpy(label_B[tile]), torch.from_numpy(x64_RT[:size]))
    return PartialSums(sums_KT.numpy(), np.bincount(label_B, minlength=clusters))


def nearest(x_BT: Float32, centroids_KT: Float32, scores: LinearScores) -> tuple[Int32, Float32]:
    """The nearest centroid of each row and the Euclidean distance to it (the root, not the square)."""
    label_B = np.empty(len(x_BT), np.int64)
    distance_B = np.empty(len(x_BT), np.float32)
    for tile in _nearest_by_tile(x_BT, scores, label_B):
        # From the difference, not from the scores: the distance of a row to an equal centroid is exactly 0.
        difference_RT = x_BT[tile] - centroids_KT[label_B[tile]]
        distance_B[tile] = np.sqrt(np.einsum("rt,rt->r", difference_RT, difference_RT))
    return label_B.astype(np.int32), distance_B


def _tile_rows(clusters: int) -> int:
    return min(max(TILE_SCORES // clusters, 256), 2048)


def _nearest_by_tile(x_BT: Float32, scores: LinearScores, label_B: Int64) -> Iterator[slice]:
    """Fill label_B tile by tile and yield each tile while its rows are in cache."""
    weights_KT, bias_K = (torch.from_numpy(each.astype(np.float32)) for each in (scores.weights_KT, scores.bias_K))
    rows = _tile_rows(len(bias_K))
    x_RT = np.empty((rows, x_BT.shape[1]), np.float32)
    for start in range(0, len(x_BT), rows):
        tile = slice(start, min(start + rows, len(x_BT)))
        size = tile.stop - tile.start
        x_RT[:size] = x_BT[tile]  # torch needs contiguous, writable memory
        score_RK = onednn_linear(torch.from_numpy(x_RT[:size]), weights_KT, bias_K).numpy()
        score_RK.argmax(axis=1, out=label_B[tile])
        if scores.any_coarse:
            _assign_again(x_RT[:size], scores, label_B[tile])
        yield tile


def _assign_again(x_RT: Float32, scores: LinearScores, label_R: Int64) -> None:
    """Replace the labels of coarse centroids by those of float64."""
    again_M = np.flatnonzero(scores.coarse_K[label_R])
    if len(again_M):
        score_MK = x_RT[again_M].astype(np.float64) @ scores.weights_KT.T + scores.bias_K
        label_R[again_M] = score_MK.argmax(axis=1)


@dataclass(frozen=True)
class CpuBlocks:
    """Rows in host memory, processed block by block, on the threads of `executor` if any. Create with `cpu_blocks`."""

    x_NT: Float32
    executor: Executor | None

    def sums(self, centroids_KT: Float32) -> PartialSums:
        """`partial_sums` of every block, added in block order."""
        scores = linear_scores(centroids_KT)
        return merge(self._map_blocks(lambda x_BT: partial_sums(x_BT, scores)))

    def nearest(self, centroids_KT: Float32) -> tuple[Int32, Float32]:
        scores = linear_scores(centroids_KT)
        labels, distances = zip(*self._map_blocks(lambda x_BT: nearest(x_BT, centroids_KT, scores)), strict=True)
        return np.concatenate(labels), np.concatenate(distances)

    def _map_blocks(self, function: Callable[[Float32], Result]) -> Iterator[Result]:
        blocks = [self.x_NT[start : start + BLOCK_ROWS] for start in range(0, len(self.x_NT), BLOCK_ROWS)]
        return map(function, blocks) if self.executor is None else self.executor.map(function, blocks)


@contextmanager
def cpu_blocks(x_NT: Float32, workers: int) -> Iterator[CpuBlocks]:
    """Process blocks of x_NT on `workers` threads, each with one thread of BLAS and torch."""
    # oneDNN uses all cores in a new thread unless limited
    executor = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    with single_threaded(), executor:  # a pool of one thread is 3 to 6 % slower than none
        yield CpuBlocks(x_NT, executor if workers > 1 else None)


@contextmanager
def single_threaded() -> Iterator[None]:
    """Limit BLAS and torch to one thread in the block: a product's bits may depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)
