"""float32 products by oneDNN against torch's own, for several shapes and layouts."""

import pytest
import torch
from torch.nn.functional import linear

from s2l_ray.core.onednn_linear import OneDnnLinearMode


@pytest.mark.parametrize("shape", [(64,), (1, 64), (7, 64), (2, 3, 64), (0, 64)])
@pytest.mark.parametrize("bias", [None, torch.randn(40)])
@pytest.mark.parametrize("transposed", [False, True])
def test_products_match_torch(shape: tuple[int, ...], bias: torch.Tensor | None, transposed: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    weight = torch.randn(64, 40).T if transposed else torch.randn(40, 64)
    expected = linear(x.double(), weight.double(), None if bias is None else bias.double())
    with torch.inference_mode(), OneDnnLinearMode(frozen_weights=False):
        torch.testing.assert_close(linear(x, weight, bias).double(), expected, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(linear(x, weight, bias=bias).double(), expected, atol=1e-4, rtol=1e-5)
        rounded = linear(x.bfloat16(), weight.bfloat16())
    assert rounded.dtype == torch.bfloat16


def test_module_on_a_sliced_input_matches_torch() -> None:
    module, x = torch.nn.Linear(32, 16), torch.randn(50, 64)[:, 16:48]
    with torch.inference_mode():
        expected = module(x)
        with OneDnnLinearMode(frozen_weights=True):
            torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(7, 32), (2, 3, 32)])
def test_gradients_match_torch(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module, x = torch.nn.Linear(32, 16), torch.randn(shape, requires_grad=True)
    wanted = (x, module.weight, module.bias)
    expected = torch.autograd.grad(module(x).square().sum(), wanted)
    with OneDnnLinearMode(frozen_weights=False):
        found = torch.autograd.grad(module(x).square().sum(), wanted)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("shape", [(7, 32), (2, 3, 32)])
def test_a_product_can_be_changed_in_place(shape: tuple[int, ...]) -> None:
    module, x = torch.nn.Linear(32, 16), torch.randn(shape)
    with OneDnnLinearMode(frozen_weights=False):
        product = module(x)
        product *= 2
        product.sum().backward()
    torch.testing.assert_close(module.bias.grad, torch.full((16,), 2.0 * x[..., 0].numel()))


def test_changed_weight_is_used() -> None:
    module, x = torch.nn.Linear(8, 8, bias=False), torch.randn(4, 8)
    with torch.no_grad(), OneDnnLinearMode(frozen_weights=False):
        before = module(x)
        module.weight.mul_(2)
        torch.testing.assert_close(module(x), 2 * before)
