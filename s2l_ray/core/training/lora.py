"""Low-rank adapters (LoRA) of linear layers, by peft: W + (alpha / r) B A, of which only A and B are trained.

The adapters are injected into the model, whose class and forward pass stay as they are, so that packing, DDP and resume
states work as for a full fine-tuning. A checkpoint holds the merged weights, which any reader of the model loads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from s2l_ray.core.training.schedule import LoraSettings

BASE, ADAPTER = "base_layer.", ".lora_"
# of peft: every linear layer but the output embeddings
ALL_LINEAR = "all-linear"


def add_adapters(model: PreTrainedModel, settings: LoraSettings, seed: int) -> None:
    """Inject adapters in place and freeze everything else. B is 0, so the output of the model does not change.

    Raises ValueError for a name of no layer, and for the output embeddings, which the loss reads without their adapter,
    or input embeddings that are tied to them.
    """
    from peft import LoraConfig, inject_adapter_in_model

    modules = list(settings.target_modules) or ALL_LINEAR
    config = LoraConfig(r=settings.r, lora_alpha=settings.alpha, lora_dropout=0.0, target_modules=modules)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    _check_adapted(model, settings.target_modules)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(ADAPTER in name)


def _check_adapted(model: PreTrainedModel, names: Sequence[str]) -> None:
    from peft.tuners.lora import LoraLayer

    adapted = [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    for wanted in names:
        if not any(name == wanted or name.endswith(f".{wanted}") for name in adapted):
            raise ValueError(f"target.lora.target_modules: no layer of the model is named {wanted}; remove it")
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    tied = isinstance(inputs, LoraLayer) and inputs.weight is outputs.weight
    if tied or not isinstance(outputs, torch.nn.Linear):
        raise ValueError(
            "target.lora.target_modules: names the output embeddings, or input embeddings that are tied to them, which "
            "cannot have an adapter; remove them"
        )


def merge_adapters(model: PreTrainedModel, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of the model without adapters that computes the same; `weights` are those of `model`, by name."""
    from peft.tuners.lora import LoraLayer

    merged = {name.replace(BASE, ""): tensor for name, tensor in weights.items() if ADAPTER not in name}
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            adapted: Any = layer  # its subclasses have get_delta_weight, which transposes where a layer does
            with torch.no_grad():
                delta = adapted.get_delta_weight(*layer.active_adapters)
            # peft wraps the experts of a mixture once for each of their parameters
            weight = f"{name}.{getattr(layer, 'parameter_name', 'weight')}".replace(BASE, "")
            merged[weight] = merged[weight] + delta.to("cpu", merged[weight].dtype)
    return merged
