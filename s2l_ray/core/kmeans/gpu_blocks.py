"""K-means assignment and centroid sums on a CUDA device, with the interface of cpu_blocks.CpuBlocks.

The rows stay on the device if they take less than half of its free memory; otherwise they are copied once per pass.
Products are float32, and float64 where that is too coarse (see linear_scores).

Shapes: N rows, B rows of a block, T columns, K centroids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from s2l_ray.core.arrays import Float32, Int32
from s2l_ray.core.kmeans.cpu_blocks import PartialSums, merge
from s2l_ray.core.kmeans.linear_scores import linear_scores

# Half a gigabyte of float32 scores on the device.
BLOCK_SCORES = 1 << 27


@dataclass(frozen=True)
class DeviceBlocks:
    """Rows processed block by block on one device. Create with `device_blocks`."""

    x_NT: torch.Tensor
    device: torch.device

    def sums(self, centroids_KT: Float32) -> PartialSums:
        return merge(
            self._block_sums(x_BT, label_B, len(centroids_KT)) for x_BT, label_B in self._labelled_blocks(centroids_KT)
        )

    def nearest(self, centroids_KT: Float32) -> tuple[Int32, Float32]:
        centroids = torch.from_numpy(centroids_KT).to(self.device)
        labels, distances = [], []
        for x_BT, label_B in self._labelled_blocks(centroids_KT):
            labels.append(label_B.int().cpu().numpy())
            distances.append((x_BT - centroids[label_B]).square().sum(1).sqrt().cpu().numpy())
        return np.concatenate(labels), np.concatenate(distances)

    def _labelled_blocks(self, centroids_KT: Float32) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        scores = linear_scores(centroids_KT)
        parts = (scores.weights_KT, scores.bias_K, scores.coarse_K)
        weights64_KT, bias64_K, coarse_K = (torch.from_numpy(part).to(self.device) for part in parts)
        weights_KT, bias_K = weights64_KT.float(), bias64_K.float()
        rows = max(BLOCK_SCORES // max(len(centroids_KT), self.x_NT.shape[1]), 1024)
        for start in range(0, len(self.x_NT), rows):
            x_BT = self.x_NT[start : start + rows].to(self.device)
            label_B = torch.addmm(bias_K, x_BT, weights_KT.T).argmax(1)
            if scores.any_coarse:
                again_M = coarse_K[label_B].nonzero()[:, 0]
                label_B[again_M] = torch.addmm(bias64_K, x_BT[again_M].double(), weights64_KT.T).argmax(1)
            yield x_BT, label_B

    def _block_sums(self, x_BT: torch.Tensor, label_B: torch.Tensor, clusters: int) -> PartialSums:
        """Sums in fixed point: the order of atomic additions varies, and only integer sums do not depend on it."""
        largest = x_BT.abs().max().double().clamp(min=torch.finfo(torch.float32).tiny)
        scale = torch.exp2(torch.floor(62 - np.log2(len(x_BT)) - torch.log2(largest)))
        fixed_BT = (x_BT.double() * scale).round().long()
        sums_KT = torch.zeros((clusters, x_BT.shape[1]), dtype=torch.int64, device=self.device)
        sums_KT.index_add_(0, label_B, fixed_BT)
        counts_K = torch.bincount(label_B, minlength=clusters)
        return PartialSums((sums_KT.double() / scale).cpu().numpy(), counts_K.cpu().numpy())


def device_blocks(x_NT: Float32, device: torch.device) -> DeviceBlocks:
    """Blocks of x_NT, copied to the device if it has enough free memory."""
    rows = torch.from_numpy(np.require(x_NT, requirements="W"))  # torch warns of read-only arrays
    limit = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 0
    return DeviceBlocks(rows.to(device) if x_NT.nbytes < limit else rows, device)
