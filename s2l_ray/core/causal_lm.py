"""Causal language models in local folders: load, swap weights in place, save, initialise. All without dropout and
router noise.

Loading is strict: transformers only warns about a missing weight and initialises it at random, and a random head would
score every row. Here any missing, unexpected or misshapen weight is an error. Only safetensors files are read, so
nothing is unpickled.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from s2l_ray.core.model_config import NO_SPECIAL_IDS, check_architecture, max_positions, remove_noise, resolve_config

MASK_NAMES = (".bias", ".masked_bias", ".causal_mask")


def load_model(
    folder: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> PreTrainedModel:
    """Load the model in `folder` in eval mode.

    Raises ValueError if a weight is missing, unexpected or of another shape, or if there is no safetensors file.
    """
    folder = Path(folder)
    if not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"no safetensors weights in {folder}; save the model there with save_pretrained (pickled .bin weights "
            "are not read)"
        )
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    check_architecture(config)
    if config.is_encoder_decoder:  # and not the decoder of such an architecture, saved alone
        raise ValueError(f"{folder} holds an encoder-decoder, {config.model_type}; choose a decoder-only model")
    remove_noise(config)
    with _suppress_transformers_output():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # an error below, with all other problems
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    model: PreTrainedModel = loaded[0]
    _check_loading_info(folder, loaded[1])
    # Loaded tensors are memory maps: not aligned for fast kernels, and changed by anything that changes the file.
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    torch.nn.Module.to(model, device)
    return _prepared(model)


def swap_weights(model: PreTrainedModel, folder: str | Path) -> None:
    """Copy the weights in `folder` into `model`, in its dtype and on its device, as strictly as load_model.

    Tensors keep their addresses, so captured graphs and references into the model stay valid.
    """
    loaded = load_model(folder, dtype=model.dtype)
    if type(loaded) is not type(model):
        raise ValueError(f"{folder} holds a {type(loaded).__name__}, not a {type(model).__name__}; load it instead")
    try:
        model.load_state_dict(loaded.state_dict(), strict=True)
    except RuntimeError as error:
        raise ValueError(f"{folder} does not fit the model in memory; load it instead: {error}") from error


def check_model_fits(model: PreTrainedModel, vocab_size: int, longest: int) -> None:
    """Raise ValueError if the model lacks embeddings for ids below vocab_size, or positions for `longest` tokens."""
    embedding: Any = model.get_input_embeddings()
    if vocab_size > embedding.num_embeddings:
        raise ValueError(
            f"the tokenizer has ids up to {vocab_size - 1}, but the model has only {embedding.num_embeddings} "
            "embeddings; set data.tokenizer to the model's own tokenizer"
        )
    positions = max_positions(model.config)
    if longest > positions:
        raise ValueError(
            f"the longest row has {longest} tokens, but the model has only {positions} positions; set data.max_length "
            f"to at most {positions}, or choose another model"
        )


def save_model(
    model: PreTrainedModel, folder: str | Path, *, state_dict: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Write safetensors weights and config to `folder`; the same weights give the same bytes.

    state_dict: weights to write instead of the model's own.
    """
    with _suppress_transformers_output():
        model.save_pretrained(folder, state_dict=dict(state_dict) if state_dict is not None else None)


def init_model(
    config: Mapping[str, object], vocab_size: int, seed: int, special_ids: Mapping[str, int | None] = NO_SPECIAL_IDS
) -> PreTrainedModel:
    """Initialise a float32 model at random; the same arguments give the same weights.

    config: {architecture: a transformers model type, ...fields of its config}. special_ids: the tokenizer's ids by the
    names of NO_SPECIAL_IDS. Raises ValueError for an architecture that is unknown or not causal, and for an unknown
    field, which transformers would ignore.
    """
    fields = {name: value for name, value in config.items() if name != "architecture"}
    resolved = resolve_config(str(config.get("architecture")), fields, vocab_size, special_ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            resolved, dtype=torch.float32, trust_remote_code=False
        )
    return _prepared(model)


def on_meta_device(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same config on the meta device, without memory for its weights.

    With it `save_model` writes weights from elsewhere, while the original model is trained, wrapped or sharded.
    """
    with torch.device("meta"):
        empty: PreTrainedModel = AutoModelForCausalLM.from_config(
            copy.deepcopy(model.config), dtype=model.dtype, trust_remote_code=False
        )
    return empty


def _prepared(model: PreTrainedModel) -> PreTrainedModel:
    """The model in eval mode, without an embedding row that is frozen because it belongs to padding.

    Where the padding token also ends rows, that row has to be trained.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.padding_idx = None
    model.eval()
    return model


def _check_loading_info(folder: Path, info: Mapping[str, Collection[object]]) -> None:
    problems = {
        "missing": "missing_keys",
        "unexpected": "unexpected_keys",
        "of another shape": "mismatched_keys",
        "unreadable": "error_msgs",
    }
    found = []
    for problem, name in problems.items():
        keys = sorted(map(str, info[name]))
        if problem == "unexpected":
            keys = [key for key in keys if key not in _causal_masks(folder, keys)]
        if keys:
            found.append(f"{len(keys)} {problem} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})")
    if found:
        raise ValueError(f"weights in {folder} do not fit their config: {'; '.join(found)}; save the model again")


def _causal_masks(folder: Path, names: Collection[str]) -> set[str]:
    """Those of the names that are causal masks, which earlier versions of transformers saved with the weights.

    A mask is [1, 1, L, L], the value of masked scores a scalar; no weight of an attention has such a shape.
    """
    masks = set()
    for file in sorted(folder.glob("*.safetensors")) if names else ():
        with safe_open(file, "pt") as tensors:
            for name in set(tensors.keys()).intersection(names):
                shape = tensors.get_slice(name).get_shape()
                is_square = len(shape) == 4 and shape[:2] == [1, 1] and shape[2] == shape[3]
                if name.endswith(MASK_NAMES) and (not shape or is_square):
                    masks.add(name)
    return masks


@contextmanager
def _suppress_transformers_output() -> Iterator[None]:
    """Disable transformers' progress bars and its loading report, which _check_loading_info makes an error."""
    bars, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
