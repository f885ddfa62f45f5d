"""Norm of the gradient of a row's mean loss with respect to the weight of the output head (GraNd, arXiv 2107.07075).

The gradient is (P - Y)^T H / n, with P the predicted distributions, Y the onehot targets and H the inputs of the head
at the n targets of a row. Its squared Frobenius norm is the sum over all pairs of targets of (P - Y)(P - Y)^T times
H H^T, elementwise, divided by n^2; the first of these n x n matrices is summed over blocks of the vocabulary.

T target tokens of all rows, V vocabulary, W width of a block, H hidden size, B rows
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.nn.functional import linear

from s2l_ray.core.arrays import Integers
from s2l_ray.core.scoring.token_statistics import BLOCK_LOGITS

# first column of a block -> logits_TW
LogitBlock = Callable[[int, int], torch.Tensor]


def packed_head_gradients(
    hidden_TH: torch.Tensor, head: torch.nn.Linear, target_T: torch.Tensor, nll_T: torch.Tensor, tokens_B: Integers
) -> torch.Tensor:
    """The norm of each row, float32 [T]: repeated for each of its targets. Logits are never whole in memory."""

    def logits(start: int, stop: int) -> torch.Tensor:
        bias = None if head.bias is None else head.bias[start:stop]
        return linear(hidden_TH, head.weight[start:stop], bias)

    return _norms(hidden_TH, logits, len(head.weight), target_T, nll_T, tokens_B)


def padded_head_gradients(
    hidden_TH: torch.Tensor, logits_TV: torch.Tensor, target_T: torch.Tensor, nll_T: torch.Tensor, tokens_B: Integers
) -> torch.Tensor:
    """The norm of each row, float32 [T], from whole logits, which must be the output of the head."""

    def logits(start: int, stop: int) -> torch.Tensor:
        return logits_TV[:, start:stop]

    return _norms(hidden_TH, logits, logits_TV.shape[1], target_T, nll_T, tokens_B)


def _norms(
    hidden_TH: torch.Tensor,
    logits: LogitBlock,
    vocabulary: int,
    target_T: torch.Tensor,
    nll_T: torch.Tensor,
    tokens_B: Integers,
) -> torch.Tensor:
    total_T = _log_total(logits, vocabulary, len(target_T), hidden_TH.device)
    ends = np.cumsum(tokens_B).tolist()
    rows = [slice(end - count, end) for end, count in zip(ends, tokens_B.tolist(), strict=True)]
    products = [hidden_TH.new_zeros((count, count), dtype=torch.float64) for count in tokens_B.tolist()]
    for start, stop in _blocks(vocabulary, len(target_T), hidden_TH.device):
        error_TW = (logits(start, stop).float() - total_T[:, None]).exp_()
        inside_K = ((target_T >= start) & (target_T < stop)).nonzero()[:, 0]
        error_TW[inside_K, target_T[inside_K] - start] = torch.expm1(-nll_T[inside_K].float())  # p - 1, exact near 0
        for product, row in zip(products, rows, strict=True):
            product += (error_TW[row] @ error_TW[row].T).double()
    norms = []
    for product, row in zip(products, rows, strict=True):
        hidden_NH = hidden_TH[row].float()
        square = (product * (hidden_NH @ hidden_NH.T).double()).sum().clamp(min=0)
        norms.append((square.sqrt() / max(1, len(product))).float().expand(len(product)))
    return torch.cat(norms) if norms else hidden_TH.new_empty(0, dtype=torch.float32)


def _log_total(logits: LogitBlock, vocabulary: int, targets: int, device: torch.device) -> torch.Tensor:
    """Logarithm of the sum of exp(logit), [T]."""
    total_T = torch.full((targets,), -torch.inf, device=device)
    for start, stop in _blocks(vocabulary, targets, device):
        total_T = torch.logaddexp(total_T, logits(start, stop).float().logsumexp(dim=1))
    return total_T


def _blocks(vocabulary: int, targets: int, device: torch.device) -> Iterator[tuple[int, int]]:
    width = max(256, BLOCK_LOGITS[device.type] // max(1, targets))
    return ((start, min(start + width, vocabulary)) for start in range(0, vocabulary, width))


@contextmanager
def captured_inputs(head: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """The inputs and outputs of the head's calls in a block, in order: hidden_BLH, logits_BLV, ..."""
    captured: list[torch.Tensor] = []

    def capture(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        captured.extend((inputs[0], output))

    handle = head.register_forward_hook(capture)
    try:
        yield captured
    finally:
        handle.remove()
