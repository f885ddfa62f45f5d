"""Whether the packed way may train a model: tried against the model's own forward and backward pass beforehand.

In: a model in eval mode with float32 weights, and the rows of a training. Out: the way to take, how far the gradients
of the two lay apart, and the reason. What scoring proves of the forward pass (core/packed_proof.py) is proved first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.scoring.packed_check import probe_rows, prove
from s2l_ray.core.training.loss import TrainingLoss, micro_batches
from s2l_ray.core.training.settings import FinetuneSettings

TOLERANCES = {"float32": 1e-3, "bfloat16": 0.05}
"""Norm of the difference of the two gradients over the norm of the plain one."""


@dataclass(frozen=True)
class TrainingPath:
    """The way that trains, and why. `gradient_difference` is relative, of norms; None where nothing was compared."""

    path: str
    gradient_difference: float | None
    reason: str


def choose_training_path(model: PreTrainedModel, rows: TokenRows, settings: FinetuneSettings) -> TrainingPath:
    """Compare the two ways on a few rows, the longest among them, in micro batches as the training cuts them.

    The model comes in eval mode and leaves in it, without gradients. `settings.path` "plain" asks for the plain way.
    """
    if settings.path == "plain":
        return TrainingPath("plain", None, "asked for")
    forward = prove(model, rows, int(rows.lengths_N.max(initial=1)))
    if forward.path != "packed":
        return TrainingPath("plain", None, forward.reason)
    try:
        difference = _gradient_difference(model, probe_rows(model, rows), settings)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a kernel lacks in the backward pass, the plain way is the remedy
        return TrainingPath("plain", None, f"packed rows: {type(error).__name__}: {error}")
    if difference is not None and difference <= TOLERANCES[settings.precision]:
        return TrainingPath("packed", difference, "agrees with the plain gradient")
    return TrainingPath("plain", difference, "the gradient of packed rows differs from the plain one")


def _gradient_difference(model: PreTrainedModel, probe: TokenRows, settings: FinetuneSettings) -> float | None:
    """Of norms, relative; None where it is not finite."""
    packed = _gradients(model, probe, settings, "packed", settings.micro_batch)
    plain = _gradients(model, probe, settings, "plain", 1)
    zero = torch.zeros(())  # the gradient of a parameter that the loss does not reach
    apart = sum(float((packed.get(name, zero) - plain.get(name, zero)).square().sum()) for name in {*packed, *plain})
    whole = sum(float(gradient.square().sum()) for gradient in plain.values())
    difference = (apart / whole) ** 0.5 if whole else float(apart > 0)
    return difference if math.isfinite(difference) else None


def _gradients(
    model: PreTrainedModel, probe: TokenRows, settings: FinetuneSettings, path: str, size: int
) -> dict[str, torch.Tensor]:
    """The gradient of the probe's loss by parameter, on the CPU: a second set may be more than the device holds."""
    loss = TrainingLoss(model, settings.precision, path)
    model.train()
    try:
        with loss.ready(settings.gradient_checkpointing):
            for index_B in micro_batches(probe, np.arange(len(probe)), size):
                torch.autograd.backward(loss(probe, index_B))
        named = model.named_parameters()
        return {name: parameter.grad.to("cpu", copy=True) for name, parameter in named if parameter.grad is not None}
    finally:
        model.zero_grad(set_to_none=True)
        model.eval()
