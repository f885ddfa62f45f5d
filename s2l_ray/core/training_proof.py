"""Whether the packed way may train a model: tried against the model's own forward and backward pass beforehand.

In: a model in eval mode with float32 weights, and the rows of a training. Out: the way to take, how far the gradients
of the two lay apart, and the reason. What scoring proves of the forward pass (core/packed_proof.py) is proved first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from s2l_ray.core.packed_proof import probe_rows, prove
from s2l_ray.core.token_rows import TokenRows
from s2l_ray.core.training_loss import TrainingLoss

TOLERANCES = {"float32": 1e-3, "bfloat16": 0.05}
"""Norm of the difference of the two gradients over the norm of the plain one."""


@dataclass(frozen=True)
class TrainingPath:
    """The way that trains, and why. `gradient_difference` is relative, of norms; None where nothing was compared."""

    path: str
    gradient_difference: float | None
    reason: str


def choose_training_path(model: PreTrainedModel, rows: TokenRows, precision: str, path: str) -> TrainingPath:
    """Compare the two ways on a few rows, the longest among them; `path` "plain" asks for the plain one."""
    if path == "plain":
        return TrainingPath("plain", None, "asked for")
    forward = prove(model, rows, int(rows.lengths_N.max(initial=1)))
    if forward.path != "packed":
        return TrainingPath("plain", None, forward.reason)
    try:
        difference = _gradient_difference(model, probe_rows(model, rows), precision)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a kernel lacks in the backward pass, the plain way is the remedy
        return TrainingPath("plain", None, f"packed rows: {type(error).__name__}: {error}")
    if difference <= TOLERANCES[precision]:
        return TrainingPath("packed", difference, "agrees with the plain gradient")
    return TrainingPath("plain", difference, "the gradient of packed rows differs from the plain one")


def _gradient_difference(model: PreTrainedModel, probe: TokenRows, precision: str) -> float:
    gradients = []
    for path in ("packed", "plain"):
        loss = TrainingLoss(model, precision, path)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with loss.ready():
            value = loss(probe, np.arange(len(probe)))
            gradients.append(torch.autograd.grad(value, parameters, allow_unused=True))
    apart = sum(float((one - other).square().sum()) for one, other in _pairs(*gradients))
    whole = sum(float(other.square().sum()) for _, other in _pairs(*gradients))
    return (apart / whole) ** 0.5 if whole else float(apart > 0)


def _pairs(
    packed: tuple[torch.Tensor | None, ...], plain: tuple[torch.Tensor | None, ...]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Gradients side by side; a parameter that the loss does not reach has gradient 0."""
    pairs = []
    for one, other in zip(packed, plain, strict=True):
        known = one if one is not None else other
        if known is not None:
            zero = torch.zeros_like(known)
            pairs.append((zero if one is None else one, zero if other is None else other))
    return pairs
