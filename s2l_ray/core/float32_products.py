"""float32 matrix products on a CPU at the full width of its vector units.

torch gives float32 products to MKL, which on other makers' processors keeps to half the vector width; oneDNN, which
is in the same build of torch, does not (2.2 times the rate on a Zen 5). Same arithmetic, another order of additions.
Inference only: the operator has no gradient.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode


class FullWidthProducts(TorchFunctionMode):
    """Within it, float32 `linear` on CPU tensors goes to oneDNN where this build of torch has it."""

    def __init__(self) -> None:
        super().__init__()
        self.available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Called by torch in place of each of its functions."""
        if func is linear and self.available and not kwargs and _is_ours(args[0]):
            bias = args[2] if len(args) > 2 else None
            return torch.ops.mkldnn._linear_pointwise(args[0], args[1], bias, "none", [], "")
        return func(*args, **(kwargs or {}))


def _is_ours(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.dim() > 1 and x.numel() > 0
