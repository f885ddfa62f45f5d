"""Negative log-likelihood of the targets and its gradient, without whole logits kept for the backward pass.

In: hidden states at T targets and the model's output embeddings. Out: the sum of -log p. Logits are made for a piece of
the targets at a time; what the gradient needs of them, softmax minus one-hot, is formed at once and multiplied, so that
nothing as wide as the vocabulary outlives its piece. As many products as the usual way makes.

T target tokens, C targets of a piece, V vocabulary, H hidden size
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from s2l_ray.core.onednn_linear import full_width_linear

LOG2_E = math.log2(math.e)
PIECE_NUMBERS = {"cpu": 2**25, "cuda": 2**28}
"""Logits that stand in memory at one time: 128 MiB and 1 GiB of float32."""


def sum_nll(
    hidden_TH: torch.Tensor, head: torch.nn.Linear, target_T: torch.Tensor, precision: torch.dtype
) -> torch.Tensor:
    """Sum of -log softmax(head(hidden))[target], a float32 scalar with a gradient for hidden, weight and bias.

    Products run in `precision`, softmax in float32, the sum over targets in float64.
    """
    total: torch.Tensor = _SumNll.apply(  # type: ignore[no-untyped-call]
        hidden_TH, head.weight, head.bias, target_T, precision, torch.is_grad_enabled()
    )
    return total


class _SumNll(torch.autograd.Function):
    """The gradients are those of a loss whose own gradient is 1; the backward pass scales them."""

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
        wanted = grad_enabled and any(ctx.needs_input_grad[:3])  # which says yes under no_grad too
        with torch.autocast(hidden_TH.device.type, enabled=False):
            work = _Work(hidden_TH, weight_VH, bias_V, precision, wanted)
            size = max(1, PIECE_NUMBERS[hidden_TH.device.type] // len(weight_VH))
            pieces = [
                work.piece(slice(first, first + size), target_T[first : first + size])
                for first in range(0, len(target_T), size)
            ]
        ctx.gradients = (work.hidden_grad_TH, work.weight_grad_VH, work.bias_grad_V)
        return torch.stack(pieces).sum().float() if pieces else hidden_TH.new_zeros((), dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias = (None if each is None else each.mul_(grad) for each in ctx.gradients)
        del ctx.gradients
        return hidden, weight, bias, None, None, None


class _Work:
    """Operands in the precision of the products, and the gradients as they add up."""

    def __init__(
        self,
        hidden_TH: torch.Tensor,
        weight_VH: torch.Tensor,
        bias_V: torch.Tensor | None,
        precision: torch.dtype,
        wanted: bool,
    ) -> None:
        self.wanted = wanted
        self.hidden_TH, self.weight_VH = hidden_TH.to(precision), weight_VH.to(precision)
        self.bias_V = None if bias_V is None else bias_V.to(precision)
        self.hidden_grad_TH = torch.empty_like(hidden_TH) if wanted else None
        self.weight_grad_VH = torch.zeros_like(weight_VH) if wanted else None
        self.bias_grad_V = torch.zeros_like(bias_V) if wanted and bias_V is not None else None

    def piece(self, piece: slice, target_C: torch.Tensor) -> torch.Tensor:
        """The float64 sum of nll over some targets; adds their part to the gradients."""
        logits_CV = _product(self.hidden_TH[piece], self.weight_VH, self.bias_V).float()
        own_C = logits_CV.gather(1, target_C[:, None])[:, 0]
        largest_C = logits_CV.amax(dim=1)
        # exp2 is vectorised in every build of torch; exp is three times slower on some processors
        weight_CV = logits_CV.sub_(largest_C[:, None]).mul_(LOG2_E).exp2_()
        total_C = weight_CV.sum(dim=1)
        if self.wanted:
            self._add_gradients(piece, weight_CV.div_(total_C[:, None]), target_C)
        return (total_C.log() + largest_C - own_C).double().sum()

    def _add_gradients(self, piece: slice, probability_CV: torch.Tensor, target_C: torch.Tensor) -> None:
        assert self.hidden_grad_TH is not None and self.weight_grad_VH is not None
        probability_CV.scatter_add_(1, target_C[:, None], probability_CV.new_full((len(target_C), 1), -1.0))
        if self.bias_grad_V is not None:
            self.bias_grad_V += probability_CV.sum(dim=0)
        slope_CV = probability_CV.to(self.hidden_TH.dtype)
        self.hidden_grad_TH[piece] = _product(slope_CV, self.weight_VH.t(), None)
        self.weight_grad_VH += _product(slope_CV.t(), self.hidden_TH[piece].t(), None)


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if x.device.type == "cpu" and x.dtype == torch.float32:
        return full_width_linear(x, weight, bias)
    return torch.nn.functional.linear(x, weight, bias)
