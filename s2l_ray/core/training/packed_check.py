"""Check of packed training against the gradients of the model's padded forward and backward pass.

Includes the check of the forward pass (scoring/packed_check.py), which runs first.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from transformers import PreTrainedModel

from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.scoring.packed_check import AttentionChoice, check_packed_scoring, probe_rows
from s2l_ray.core.training.loss import TrainingLoss, micro_batches
from s2l_ray.core.training.schedule import FinetuneSettings

# Norm of the difference of the two gradients over the norm of the padded one.
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.05}


def choose_training_attention(model: PreTrainedModel, rows: TokenRows, settings: FinetuneSettings) -> AttentionChoice:
    """Compare packed and padded gradients on a few rows, including the longest, in micro batches as in training.

    The model is in eval mode before and after, without gradients. `settings.attention` "padded" skips the check.
    """
    if settings.attention == "padded":
        return AttentionChoice("padded", "requested")
    scoring = check_packed_scoring(model, rows, int(rows.lengths_N.max(initial=1)))
    if scoring.attention != "packed":
        return AttentionChoice("padded", scoring.reason)
    try:
        difference = _gradient_difference(model, probe_rows(model, rows), settings)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a kernel may have no backward pass; padded training is the fallback
        return AttentionChoice("padded", f"packed rows: {type(error).__name__}: {error}")
    if difference is not None and difference <= TOLERANCES[settings.precision]:
        return AttentionChoice("packed", "agrees with the padded gradient", difference)
    return AttentionChoice("padded", "the gradient of packed rows differs from the padded one", difference)


def _gradient_difference(model: PreTrainedModel, probe: TokenRows, settings: FinetuneSettings) -> float | None:
    """Relative difference of norms; None if it is not finite."""
    packed = _gradients(model, probe, settings, "packed", settings.micro_batch)
    padded = _gradients(model, probe, settings, "padded", 1)
    zero = torch.zeros(())  # the gradient of a parameter that the loss does not depend on
    names = list(packed | padded)
    squared_difference = sum(float((packed.get(name, zero) - padded.get(name, zero)).square().sum()) for name in names)
    squared_norm = sum(float(gradient.square().sum()) for gradient in padded.values())
    difference = (squared_difference / squared_norm) ** 0.5 if squared_norm else float(squared_difference > 0)
    return difference if math.isfinite(difference) else None


def _gradients(
    model: PreTrainedModel, probe: TokenRows, settings: FinetuneSettings, attention: str, micro_batch: int
) -> dict[str, torch.Tensor]:
    """Gradient of the probe's loss by parameter, on the CPU since the device may not hold a second set."""
    loss = TrainingLoss(model, settings.precision, attention)
    model.train()
    try:
        with loss.execution_context(settings.gradient_checkpointing):
            for index_B in micro_batches(probe, np.arange(len(probe)), micro_batch):
                torch.autograd.backward(loss(probe, index_B))
        named = model.named_parameters()
        return {name: parameter.grad.to("cpu", copy=True) for name, parameter in named if parameter.grad is not None}
    finally:
        model.zero_grad(set_to_none=True)
        model.eval()
