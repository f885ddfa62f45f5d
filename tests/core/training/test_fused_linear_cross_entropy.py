"""Fused cross entropy and its gradients against torch's own on full logits."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from s2l_ray.core.training import fused_linear_cross_entropy
from s2l_ray.core.training.fused_linear_cross_entropy import sum_nll

TARGETS, HIDDEN, VOCABULARY = 37, 16, 101


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk_targets", [1, 5, 100])
def test_value_and_gradients_match_torch(bias: bool, chunk_targets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fused_linear_cross_entropy.CHUNK_LOGITS, "cpu", chunk_targets * VOCABULARY)
    torch.manual_seed(0)
    head = torch.nn.Linear(HIDDEN, VOCABULARY, bias=bias)
    hidden = (3 * torch.randn(TARGETS, HIDDEN)).requires_grad_()
    target = torch.randint(VOCABULARY, (TARGETS,))
    wanted = [hidden, *head.parameters()]
    expected = cross_entropy(head(hidden).double(), target, reduction="sum")
    value = sum_nll(hidden, head, target, torch.float32)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    for scale in (1.0, 0.25):
        ours = torch.autograd.grad(scale * sum_nll(hidden, head, target, torch.float32), wanted)
        theirs = torch.autograd.grad(scale * expected, wanted, retain_graph=True)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_large_logits_and_no_targets() -> None:
    head = torch.nn.Linear(HIDDEN, VOCABULARY)
    hidden = (1e4 * torch.randn(TARGETS, HIDDEN)).requires_grad_()
    target = torch.randint(VOCABULARY, (TARGETS,))
    expected = cross_entropy(head(hidden).double(), target, reduction="sum")
    assert sum_nll(hidden, head, target, torch.float32).item() == pytest.approx(expected.item(), rel=1e-5)
    none = sum_nll(hidden[:0], head, target[:0], torch.float32)
    assert none.item() == 0 and float(torch.autograd.grad(none, hidden)[0].abs().sum()) == 0


def test_bfloat16_error_is_no_larger_than_under_autocast() -> None:
    torch.manual_seed(0)
    head, hidden = torch.nn.Linear(HIDDEN, VOCABULARY), torch.randn(TARGETS, HIDDEN, requires_grad=True)
    target = torch.randint(VOCABULARY, (TARGETS,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = cross_entropy(head(hidden).float(), target, reduction="sum")
    exact = cross_entropy(head(hidden), target, reduction="sum")
    ours = sum_nll(hidden, head, target, torch.bfloat16)
    gradients = [torch.autograd.grad(value, head.weight)[0] for value in (ours, rounded, exact)]
    assert abs(ours.item() - rounded.item()) < 1e-3
    assert (gradients[0] - gradients[2]).norm() < 1.5 * (gradients[1] - gradients[2]).norm()


def test_no_gradients_are_computed_under_no_grad() -> None:
    head, hidden = torch.nn.Linear(HIDDEN, VOCABULARY), torch.randn(TARGETS, HIDDEN)
    target = torch.randint(VOCABULARY, (TARGETS,))
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        value = sum_nll(hidden, head, target, torch.bfloat16)
    assert counted.get_total_flops() == 2 * TARGETS * HIDDEN * VOCABULARY
    assert not value.requires_grad
    assert value.item() == pytest.approx(cross_entropy(head(hidden), target, reduction="sum").item(), rel=1e-2)
