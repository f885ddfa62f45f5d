"""Fused output projection and cross entropy, without full logits kept for the backward pass.

Logits are computed for a chunk of the targets at a time. Their gradient, softmax minus one-hot, is formed in the
forward pass and multiplied at once, so that no tensor of vocabulary width outlives its chunk. The number of matrix
products is the same as in the unfused computation.

T target tokens, C targets of a chunk, V vocabulary, H hidden size
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from s2l_ray.core.onednn_linear import onednn_linear
from s2l_ray.core.scoring.token_statistics import LOG2_E

# Logits in memory at one time: 128 MiB and 1 GiB of float32.
CHUNK_LOGITS = {"cpu": 2**25, "cuda": 2**28}


def sum_nll(
    hidden_TH: torch.Tensor, head: torch.nn.Linear, target_T: torch.Tensor, precision: torch.dtype
) -> torch.Tensor:
    """Sum of -log softmax(head(hidden))[target], a float32 scalar with gradients for hidden, weight and bias.

    Products run in `precision`, softmax in float32, the sum over targets in float64.
    """
    total: torch.Tensor = _SumNll.apply(  # type: ignore[no-untyped-call]
        hidden_TH, head.weight, head.bias, target_T, precision, torch.is_grad_enabled()
    )
    return total


class _SumNll(torch.autograd.Function):
    """Computes gradients of the sum in the forward pass; the backward pass scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TH: torch.Tensor,
        weight_VH: torch.Tensor,
        bias_V: torch.Tensor | None,
        target_T: torch.Tensor,
        precision: torch.dtype,
        grad_enabled: bool,
    ) -> torch.Tensor:
        # needs_input_grad alone is also true under no_grad
        with_gradients = grad_enabled and any(ctx.needs_input_grad[:3])
        with torch.autocast(hidden_TH.device.type, enabled=False):
            loss = _ChunkedLoss(hidden_TH, weight_VH, bias_V, precision, with_gradients)
            size = max(1, CHUNK_LOGITS[hidden_TH.device.type] // len(weight_VH))
            sums = [
                loss.chunk(slice(first, first + size), target_T[first : first + size])
                for first in range(0, len(target_T), size)
            ]
        ctx.gradients = (loss.hidden_grad_TH, loss.weight_grad_VH, loss.bias_grad_V)
        return torch.stack(sums).sum().float() if sums else hidden_TH.new_zeros((), dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias = (None if each is None else each.mul_(grad) for each in ctx.gradients)
        del ctx.gradients
        return hidden, weight, bias, None, None, None


class _ChunkedLoss:
    """Operands in the precision of the products, and the gradients accumulated over chunks."""

    def __init__(
        self,
        hidden_TH: torch.Tensor,
        weight_VH: torch.Tensor,
        bias_V: torch.Tensor | None,
        precision: torch.dtype,
        with_gradients: bool,
    ) -> None:
        self.with_gradients = with_gradients
        self.hidden_TH, self.weight_VH = hidden_TH.to(precision), weight_VH.to(precision)
        self.bias_V = None if bias_V is None else bias_V.to(precision)
        self.hidden_grad_TH = torch.empty_like(hidden_TH) if with_gradients else None
        self.weight_grad_VH = torch.zeros_like(weight_VH) if with_gradients else None
        self.bias_grad_V = torch.zeros_like(bias_V) if with_gradients and bias_V is not None else None

    def chunk(self, chunk: slice, target_C: torch.Tensor) -> torch.Tensor:
        """Float64 sum of nll over a chunk of the targets; adds the chunk's gradients."""
        logits_CV = _product(self.hidden_TH[chunk], self.weight_VH, self.bias_V).float()
        own_C = logits_CV.gather(1, target_C[:, None])[:, 0]
        largest_C = logits_CV.amax(dim=1)
        # exp2 is vectorised in every build of torch; exp is three times slower on some processors
        weight_CV = logits_CV.sub_(largest_C[:, None]).mul_(LOG2_E).exp2_()
        total_C = weight_CV.sum(dim=1)
        if self.with_gradients:
            self._add_gradients(chunk, weight_CV.div_(total_C[:, None]), target_C)
        return (total_C.log() + largest_C - own_C).double().sum()

    def _add_gradients(self, chunk: slice, probability_CV: torch.Tensor, target_C: torch.Tensor) -> None:
        assert self.hidden_grad_TH is not None and self.weight_grad_VH is not None
        probability_CV.scatter_add_(1, target_C[:, None], probability_CV.new_full((len(target_C), 1), -1.0))
        if self.bias_grad_V is not None:
            self.bias_grad_V += probability_CV.sum(dim=0)
        logits_grad_CV = probability_CV.to(self.hidden_TH.dtype)
        self.hidden_grad_TH[chunk] = _product(logits_grad_CV, self.weight_VH.t(), None)
        self.weight_grad_VH += _product(logits_grad_CV.t(), self.hidden_TH[chunk].t(), None)


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if x.device.type == "cpu" and x.dtype == torch.float32:
        return onednn_linear(x, weight, bias)
    return torch.nn.functional.linear(x, weight, bias)
