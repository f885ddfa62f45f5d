"""The work of k-means on rows in memory: nearest centroids, and the sums that make the next ones.

In: rows x_NT and centroids_KT, float32. Out: labels and distances, or sums and counts (float64). The rows are cut into
blocks of fixed size; a thread works a whole block and the blocks' sums are added in block order, so the bits do not
depend on how many threads there are. Inside a block, tiles of rows are small enough for their scores to stay in cache.

Shapes: N rows, B rows of a block, R rows of a tile, T columns, K centroids.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from s2l_ray.core.arrays import Float32, Float64, Int32, Int64
from s2l_ray.core.onednn_linear import full_width_linear

BLOCK_ROWS = 16_384
TILE_SCORES = 1 << 17  # half a megabyte of float32, to share a core's cache with the rows themselves


@dataclass(frozen=True)
class PartialSums:
    """What some rows add to the next centroids: the sum and the number of the rows nearest to each."""

    sums_KT: Float64
    counts_K: Int64

    def __add__(self, other: PartialSums) -> PartialSums:
        return PartialSums(self.sums_KT + other.sums_KT, self.counts_K + other.counts_K)


def merge(parts: Iterable[PartialSums]) -> PartialSums:
    """Add parts up from left to right; the order is part of the result."""
    return functools.reduce(PartialSums.__add__, parts)


def scoring_weights(centroids_KT: Float32) -> tuple[Float32, Float32]:
    """Weights w_KT and bias_K for which argmax_k (x . w_k + bias_k) is the centroid nearest to x.

    |x - c|^2 = |x|^2 - 2 (x . c - |c|^2 / 2), and |x|^2 is the same for all centroids. So are x . m and |m|^2 for m the
    mean of the centroids: taking them off too leaves smaller products, hence less rounding, at no cost per row.
    """
    centroids64_KT = centroids_KT.astype(np.float64)
    mean_T = centroids64_KT.mean(axis=0)
    weights_KT = centroids64_KT - mean_T
    bias_K = -0.5 * ((centroids64_KT + mean_T) * weights_KT).sum(axis=1)
    return weights_KT.astype(np.float32), bias_K.astype(np.float32)


def partial_sums(x_BT: Float32, centroids_KT: Float32) -> PartialSums:
    """Sums and counts of the rows nearest to each centroid; of equally near ones the first counts.

    Deterministic for one number of threads; `cpu_blocks` sets it to one.
    """
    label_B = np.empty(len(x_BT), np.int64)
    sums_KT = torch.zeros(centroids_KT.shape, dtype=torch.float64)
    x64_RT = np.empty((_tile_rows(len(centroids_KT)), x_BT.shape[1]))
    for tile in _nearest_by_tile(x_BT, centroids_KT, label_B):
        size = tile.stop - tile.start
        x64_RT[:size] = x_BT[tile]
        sums_KT.index_add_(0, torch.from_numpy(label_B[tile]), torch.from_numpy(x64_RT[:size]))
    return PartialSums(sums_KT.numpy(), np.bincount(label_B, minlength=len(centroids_KT)))


def nearest(x_BT: Float32, centroids_KT: Float32) -> tuple[Int32, Float32]:
    """The nearest centroid of each row and the Euclidean distance to it (the root, not the square)."""
    label_B = np.empty(len(x_BT), np.int64)
    distance_B = np.empty(len(x_BT), np.float32)
    for tile in _nearest_by_tile(x_BT, centroids_KT, label_B):
        # From the difference, not from the scores: a row on its centroid is at 0, not at the noise of large products.
        difference_RT = x_BT[tile] - centroids_KT[label_B[tile]]
        distance_B[tile] = np.sqrt(np.einsum("rt,rt->r", difference_RT, difference_RT))
    return label_B.astype(np.int32), distance_B


def _tile_rows(clusters: int) -> int:
    return min(max(TILE_SCORES // clusters, 256), 2048)


def _nearest_by_tile(x_BT: Float32, centroids_KT: Float32, label_B: Int64) -> Iterator[slice]:
    """Fill label_B tile by tile, and yield each tile while its rows are still in cache."""
    weights_KT, bias_K = (torch.from_numpy(each) for each in scoring_weights(centroids_KT))
    rows = _tile_rows(len(centroids_KT))
    x_RT = np.empty((rows, x_BT.shape[1]), np.float32)
    for start in range(0, len(x_BT), rows):
        tile = slice(start, min(start + rows, len(x_BT)))
        size = tile.stop - tile.start
        x_RT[:size] = x_BT[tile]  # contiguous and writable, as torch wants it
        score_RK = full_width_linear(torch.from_numpy(x_RT[:size]), weights_KT, bias_K).numpy()
        score_RK.argmax(axis=1, out=label_B[tile])
        yield tile


@dataclass(frozen=True)
class CpuBlocks:
    """Rows in this machine's memory, worked block by block; made by `cpu_blocks`."""

    x_NT: Float32
    map_blocks: Callable[..., Iterator[Any]]

    def sums(self, centroids_KT: Float32) -> PartialSums:
        """`partial_sums` of every block, added up in block order."""
        return merge(self.map_blocks(lambda x_BT: partial_sums(x_BT, centroids_KT), self._blocks()))

    def nearest(self, centroids_KT: Float32) -> tuple[Int32, Float32]:
        """Labels and distances of all rows."""
        parts = list(self.map_blocks(lambda x_BT: nearest(x_BT, centroids_KT), self._blocks()))
        labels, distances = zip(*parts, strict=True)
        return np.concatenate(labels), np.concatenate(distances)

    def _blocks(self) -> list[Float32]:
        return [self.x_NT[start : start + BLOCK_ROWS] for start in range(0, len(self.x_NT), BLOCK_ROWS)]


@contextmanager
def cpu_blocks(x_NT: Float32, workers: int) -> Iterator[CpuBlocks]:
    """Blocks of x_NT shared by `workers` threads, each with one thread of BLAS and torch."""
    with single_threaded():
        if workers == 1:
            yield CpuBlocks(x_NT, map)
        else:
            # a new thread would give oneDNN all cores
            with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield CpuBlocks(x_NT, pool.map)


@contextmanager
def single_threaded() -> Iterator[None]:
    """One thread for BLAS and torch while it lasts: a product's bits may depend on how many share it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)
