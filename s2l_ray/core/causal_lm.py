"""A causal language model in a local folder: load, swap weights in place, save, initialise.

In: a folder with safetensors weights and a `config.json`, or the fields of a transformers config.
Out: a transformers model that owns its memory, in eval mode, without dropout.

Loading is strict: transformers only warns about a weight that is missing and initialises it at random, which
would score every row with a random head. Here any missing, unexpected or misshapen weight is an error.
Only safetensors is read; nothing here unpickles.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging


def load_model(
    folder: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> PreTrainedModel:
    """Load the model of `folder`, every weight of it, in eval mode.

    Raises ValueError where a weight is missing, unexpected or of another shape, and where there is no safetensors file.
    """
    folder = Path(folder)
    if not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"no safetensors weights in {folder}; save the model there with save_pretrained (pickled .bin weights "
            "are never read)"
        )
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    _remove_dropout(config)
    with _quiet():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # collected in `info` and refused below, with the others
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    model: PreTrainedModel = loaded[0]
    _refuse_partial_load(folder, loaded[1])
    # Loaded tensors are maps of the file: not aligned for the fast kernels, and changed by who changes the file.
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    torch.nn.Module.to(model, device)
    model.eval()
    return model


def swap_weights(model: PreTrainedModel, folder: str | Path) -> None:
    """Put the weights of `folder` into `model` in place, in its dtype and on its device, as strictly as load_model.

    Tensors keep their addresses, so captured graphs and references into the model stay valid.
    """
    loaded = load_model(folder, dtype=model.dtype)
    if type(loaded) is not type(model):
        raise ValueError(f"{folder} holds a {type(loaded).__name__}, not a {type(model).__name__}; load it instead")
    try:
        model.load_state_dict(loaded.state_dict(), strict=True)
    except RuntimeError as error:
        raise ValueError(f"{folder} does not fit the model in memory; load it instead: {error}") from error


def save_model(
    model: PreTrainedModel,
    tokenizer: Any | None,
    folder: str | Path,
    *,
    state_dict: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write safetensors weights, config and, where given, the tokenizer into `folder`.

    `state_dict` stands in for the model's own where that is sharded. The same weights give the same bytes.
    """
    with _quiet():
        model.save_pretrained(folder, state_dict=dict(state_dict) if state_dict is not None else None)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)


def init_model(config: Mapping[str, Any], vocab_size: int, seed: int) -> PreTrainedModel:
    """Initialise a float32 model at random; the same arguments give the same weights.

    `config` is {architecture: a transformers model type, ...fields of its config}. Raises ValueError for an unknown
    architecture or field: transformers would keep an unknown field and ignore it.
    """
    fields = {name: value for name, value in config.items() if name != "architecture"}
    resolved = _resolve_config(config.get("architecture"), fields, vocab_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            resolved, dtype=torch.float32, trust_remote_code=False
        )
    model.eval()
    return model


def without_memory(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same kind whose tensors hold nothing: `save_model` writes weights that lie elsewhere through it.

    It stays as it is while the model itself is trained, wrapped or sharded.
    """
    with torch.device("meta"):
        empty: PreTrainedModel = AutoModelForCausalLM.from_config(
            copy.deepcopy(model.config), dtype=model.dtype, trust_remote_code=False
        )
    return empty


def parameter_count(model: torch.nn.Module) -> int:
    """Number of parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _resolve_config(architecture: Any, fields: dict[str, Any], vocab_size: int) -> PretrainedConfig:
    try:
        known = AutoConfig.for_model(architecture)
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"unknown architecture {architecture!r}; write a transformers model type, such as gpt_neox or llama"
        ) from error
    names = set(known.to_dict()) | set(known.attribute_map)
    for name in fields:
        if name not in names:
            nearest = difflib.get_close_matches(name, names, n=1) or sorted(names)
            raise ValueError(f"{architecture} has no config field {name!r}; did you mean {', '.join(nearest)}?")
    if fields.get("vocab_size", vocab_size) != vocab_size:
        raise ValueError(
            f"vocab_size {fields['vocab_size']} does not fit a tokenizer of {vocab_size} tokens; leave it out"
        )
    resolved = AutoConfig.for_model(architecture, **{**fields, "vocab_size": vocab_size})
    _remove_dropout(resolved)
    return resolved


def _remove_dropout(config: PretrainedConfig) -> None:
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)


def _refuse_partial_load(folder: Path, info: Mapping[str, Any]) -> None:
    problems = {
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "of another shape": sorted(str(key) for key in info["mismatched_keys"]),
        "unreadable": [str(message) for message in info["error_msgs"]],
    }
    found = [
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for kind, keys in problems.items()
        if keys
    ]
    if found:
        raise ValueError(f"weights in {folder} do not fit their config: {'; '.join(found)}; save the model again whole")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' progress bars and its load report, which _refuse_partial_load turns into an error."""
    bars, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
