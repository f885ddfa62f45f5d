"""float32 matrix products on a CPU at the full width of its vector units.

torch gives float32 products to MKL, which on other makers' processors keeps to half the vector width; oneDNN, which
is in the same build of torch, does not (2.2 times the rate on a Zen 5). Parameters are laid out for it once and used
many times. Same arithmetic, another order of additions. Inference only: the operators have no gradient.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

LAID_OUT_FOR = 2048
"""Rows of the products that the layout is made for; any other number works."""

AVAILABLE = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
)


def full_width_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`linear` of float32 CPU tensors by oneDNN where this build of torch has it, else torch's own."""
    if not AVAILABLE:
        return linear(x, weight, bias)
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


class FullWidthProducts(TorchFunctionMode):
    """Within it, float32 `linear` on CPU tensors goes to oneDNN where this build of torch has it.

    Holds a second copy of each parameter that was multiplied with, so it must end before weights change.
    """

    def __init__(self) -> None:
        super().__init__()
        self._laid_out: dict[int, torch.Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Called by torch in place of each of its functions."""
        if func is linear and not kwargs and _is_ours(args[0]):
            return full_width_linear(args[0], self._weight(args[1]), args[2] if len(args) > 2 else None)
        return func(*args, **(kwargs or {}))

    def _weight(self, weight: torch.Tensor) -> torch.Tensor:
        if not AVAILABLE or not isinstance(weight, torch.nn.Parameter):
            return weight  # used once: a block of the vocabulary has the hidden states here
        if id(weight) not in self._laid_out:
            self._laid_out[id(weight)] = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), LAID_OUT_FOR)
        return self._laid_out[id(weight)]


def _is_ours(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.dim() > 1 and x.numel() > 0
