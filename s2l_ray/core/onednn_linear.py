"""float32 matrix products on a CPU at the full width of its vector units.

torch gives float32 products to MKL, which on other makers' processors keeps to half the vector width; oneDNN, which
is in the same build of torch, does not (2.2 times the rate on a Zen 5). Same arithmetic, another order of additions.
Parameters that stay as they are can be laid out for it once and be used many times.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

LAID_OUT_FOR = 2048
"""Rows of the products that the layout is made for; any other number works."""

AVAILABLE = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
)


def full_width_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`linear` of float32 CPU tensors by oneDNN where this build of torch has it, else torch's own. No gradient."""
    if not AVAILABLE:
        return linear(x, weight, bias)
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


class _Linear(torch.autograd.Function):
    """The product and its two gradients."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return full_width_linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad, grad_2d, x_2d = grad.contiguous(), grad.flatten(0, -2), x.flatten(0, -2)
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            full_width_linear(grad, weight.t(), None) if for_x else None,
            full_width_linear(grad_2d.t(), x_2d.t(), None) if for_weight else None,
            grad_2d.sum(dim=0) if for_bias else None,
        )


class FullWidthProducts(TorchFunctionMode):
    """Within it, float32 `linear` on CPU tensors goes to oneDNN where this build of torch has it.

    `weights_stay` promises that no parameter changes while it lasts: a copy of each is then laid out for the products.
    """

    def __init__(self, weights_stay: bool) -> None:
        super().__init__()
        self._weights_stay = weights_stay
        self._laid_out: dict[int, torch.Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Called by torch in place of each of its functions."""
        if func is not linear or kwargs or not _is_ours(args[0]):
            return func(*args, **(kwargs or {}))
        x, weight, bias = (*args, None)[:3]
        if torch.is_grad_enabled():
            return _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return full_width_linear(x, self._weight(weight), bias)

    def _weight(self, weight: torch.Tensor) -> torch.Tensor:
        if not (AVAILABLE and self._weights_stay and isinstance(weight, torch.nn.Parameter)):
            return weight  # used once: a block of the vocabulary has the hidden states here
        if id(weight) not in self._laid_out:
            self._laid_out[id(weight)] = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), LAID_OUT_FOR)
        return self._laid_out[id(weight)]


def _is_ours(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.dim() > 1 and x.numel() > 0
