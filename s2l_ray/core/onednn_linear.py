"""float32 matrix products on a CPU by oneDNN.

torch uses MKL for float32 products, which runs at half the vector width on processors of other makers; oneDNN, which
the same build of torch contains, does not (2.2 times the rate on a Zen 5). The arithmetic is the same and the order of
additions differs. Weights that do not change can be reordered for oneDNN once and used many times.
"""

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

# Rows of the products that the reordered layout is optimised for. Any other number of rows works.
REORDER_ROWS = 2048

AVAILABLE = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
)


def onednn_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`linear` of float32 CPU tensors by oneDNN if this build of torch has it, else by torch. Has no gradient."""
    if not AVAILABLE:
        return linear(x, weight, bias)
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


class _OneDnnLinear(torch.autograd.Function):
    """`onednn_linear` of two dimensions, with gradients."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return onednn_linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            onednn_linear(grad, weight.t(), None) if for_x else None,
            onednn_linear(grad.t(), x.t(), None) if for_weight else None,
            grad.sum(dim=0) if for_bias else None,
        )


class OneDnnLinearMode(TorchFunctionMode):
    """Within this mode, float32 `linear` on CPU tensors uses oneDNN if this build of torch has it.

    `frozen_weights` promises that no parameter changes inside the block; each is then reordered once and reused.
    """

    def __init__(self, frozen_weights: bool) -> None:
        super().__init__()
        self._frozen_weights = frozen_weights
        self._reordered: dict[int, torch.Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if func is not linear or kwargs or not _is_supported(cast(torch.Tensor, args[0])):
            return func(*args, **(kwargs or {}))
        x, weight, bias = cast(tuple[torch.Tensor, torch.Tensor, torch.Tensor | None], (*args, None)[:3])
        if torch.is_grad_enabled():
            # of two dimensions, since the product is a view otherwise, which a model may not change in place
            product: torch.Tensor = _OneDnnLinear.apply(x.flatten(0, -2), weight, bias)  # type: ignore[no-untyped-call]
            return product.unflatten(0, x.shape[:-1])
        return onednn_linear(x, self._reorder(weight), bias)

    def _reorder(self, weight: torch.Tensor) -> torch.Tensor:
        if not (AVAILABLE and self._frozen_weights and isinstance(weight, torch.nn.Parameter)):
            return weight  # not a parameter: a block of the output embeddings, or hidden states, used once
        if id(weight) not in self._reordered:
            self._reordered[id(weight)] = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), REORDER_ROWS)
        return self._reordered[id(weight)]


def _is_supported(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.dim() > 1 and x.numel() > 0
