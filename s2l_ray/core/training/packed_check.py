"""Choice of the attention that trains a model, by the checks of scoring and the gradients of packed rows."""

from __future__ import annotations

import math

import numpy as np
import torch
from transformers import PreTrainedModel

from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.scoring.causality import check_causal
from s2l_ray.core.scoring.packed_check import AttentionChoice, check_packed
from s2l_ray.core.scoring.padded_check import check_padded
from s2l_ray.core.scoring.probe import probe_rows
from s2l_ray.core.training.loss import TrainingLoss
from s2l_ray.core.training.schedule import FinetuneSettings

# Norm of the difference of the two gradients over the norm of that of single rows.
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.05}


def choose_training_attention(model: PreTrainedModel, rows: TokenRows, settings: FinetuneSettings) -> AttentionChoice:
    """The fastest attention that passes its checks on a few rows, including the longest: packed, padded or single.

    The model is in eval mode, without gradients, before and after. `settings.attention` "padded" leaves out the check
    of packing. Raises ValueError if the model is not causal.
    """
    probe = probe_rows(model, rows)
    check_causal(model, probe)
    if settings.attention == "padded":
        return check_padded(model, probe, "requested")
    choice = check_packed(model, probe)
    if choice.attention == "packed":
        choice = _check_gradient(model, probe, settings)
    return choice if choice.attention == "packed" else check_padded(model, probe, choice.reason)


def _check_gradient(model: PreTrainedModel, probe: TokenRows, settings: FinetuneSettings) -> AttentionChoice:
    """Compare the gradient of all probe rows in one packed sequence with that of each row alone."""
    try:
        packed, single = (_gradients(model, probe, settings, attention) for attention in ("packed", "single"))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a kernel may have no backward pass; padded training is the fallback
        return AttentionChoice("padded", f"packed rows: {type(error).__name__}: {error}")
    difference = _relative_difference(packed, single)
    if difference is not None and difference <= TOLERANCES[settings.precision]:
        return AttentionChoice("packed", "agrees with the gradient of each row alone", difference)
    return AttentionChoice("padded", "the gradient of packed rows differs from that of each row alone", difference)


def _relative_difference(packed: dict[str, torch.Tensor], single: dict[str, torch.Tensor]) -> float | None:
    """Relative difference of norms; None if it is not finite."""
    zero = torch.zeros(())  # the gradient of a parameter that the loss does not depend on
    names = list(packed | single)
    squared_difference = sum(float((packed.get(name, zero) - single.get(name, zero)).square().sum()) for name in names)
    squared_norm = sum(float(gradient.square().sum()) for gradient in single.values())
    difference = (squared_difference / squared_norm) ** 0.5 if squared_norm else float(squared_difference > 0)
    return difference if math.isfinite(difference) else None


def _gradients(
    model: PreTrainedModel, probe: TokenRows, settings: FinetuneSettings, attention: str
) -> dict[str, torch.Tensor]:
    """Gradient of the probe's loss by parameter, on the CPU since the device may not hold a second set."""
    loss = TrainingLoss(model, settings.precision, attention)
    try:
        with loss.execution_context(settings.gradient_checkpointing):
            for index_B in loss.micro_batches(probe, np.arange(len(probe)), len(probe)):
                torch.autograd.backward(loss(probe, index_B))
        named = model.named_parameters()
        return {name: parameter.grad.to("cpu", copy=True) for name, parameter in named if parameter.grad is not None}
    finally:
        model.zero_grad(set_to_none=True)
