"""Configs of causal language models: resolved from a job's fields, without noise, and their limits on rows."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping

from huggingface_hub.errors import StrictDataclassError, StrictDataclassFieldValidationError
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, PretrainedConfig

NO_SPECIAL_IDS: Mapping[str, int | None] = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))


def resolve_config(
    architecture: str, fields: Mapping[str, object], vocab_size: int, special_ids: Mapping[str, int | None]
) -> PretrainedConfig:
    """The config of an architecture with these fields. Raises ValueError for what `init_model` refuses."""
    try:
        known = AutoConfig.for_model(architecture)
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"unknown architecture {architecture!r}; use a transformers model type, such as gpt_neox or llama"
        ) from error
    # models read common fields, such as head_dim, that their config class does not declare
    names = {*known.to_dict(), *known.attribute_map, *AutoConfig.for_model("llama").to_dict()}
    for name in fields:
        if name not in names:
            nearest = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else "remove it"
            raise ValueError(f"{architecture} has no config field {name!r}; {hint}")
    if fields.get("vocab_size", vocab_size) != vocab_size:
        raise ValueError(
            f"vocab_size {fields['vocab_size']} does not fit a tokenizer of {vocab_size} tokens; remove it"
        )
    try:
        resolved = AutoConfig.for_model(architecture, **{**fields, "vocab_size": vocab_size})
    except StrictDataclassError as error:
        raise ValueError(f"config of {architecture}: {' '.join(str(error).split())}") from error
    check_architecture(resolved)
    for name, token_id in special_ids.items():
        if name in names and name not in fields:
            _set_special_id(resolved, name, token_id)
    remove_noise(resolved)
    return resolved


def check_architecture(config: PretrainedConfig) -> None:
    """Raise ValueError for an architecture that has no causal language model in transformers."""
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        kind = "an encoder-decoder" if config.is_encoder_decoder else "not a causal language model"
        raise ValueError(f"{config.model_type} is {kind}; choose a decoder-only model")


def remove_noise(config: PretrainedConfig) -> None:
    """Set dropout and router noise to 0, in nested configs too."""
    for name, value in vars(config).items():
        if isinstance(value, PretrainedConfig):
            remove_noise(value)
        elif type(value) in (int, float) and ("drop" in name or "jitter" in name):
            setattr(config, name, type(value)(0))


def _set_special_id(config: PretrainedConfig, name: str, token_id: int | None) -> None:
    """Set a special token in place of the architecture's default, which is an id of another vocabulary.

    Some architectures require an id. Where the tokenizer has none, they get one that the model does not read.
    """
    try:
        setattr(config, name, token_id)
    except StrictDataclassFieldValidationError:
        setattr(config, name, 0)


def max_positions(config: PretrainedConfig) -> int:
    """Longest row that a model has positions for; sys.maxsize if its config states none."""
    text = config.get_text_config()
    stated = (getattr(text, name, None) for name in ("max_position_embeddings", "max_seq_len"))
    return next((positions for positions in stated if positions), sys.maxsize)


def rope_switch(config: PretrainedConfig) -> int:
    """The longest row with the rotary frequencies of short rows; sys.maxsize if there is one set of frequencies.

    LongRoPE takes the frequencies of a whole batch from its longest row, so no batch may contain rows of both kinds.
    """
    stated = getattr(config.get_text_config(), "rope_parameters", None) or {}
    layers = [stated, *(one for one in stated.values() if isinstance(one, dict))]
    switches = [int(one["original_max_position_embeddings"]) for one in layers if one.get("rope_type") == "longrope"]
    return min(switches, default=sys.maxsize)
