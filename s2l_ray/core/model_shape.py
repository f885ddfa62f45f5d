"""Sizes of causal language models, from the fields of their configs. Free of torch, so that plans can use them."""

from collections.abc import Mapping
from dataclasses import dataclass

# common names of the same field of a config
HIDDEN = ("hidden_size", "n_embd", "d_model")
LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
HEADS = ("num_attention_heads", "n_head")
INNER = ("intermediate_size", "n_inner", "ffn_dim")
POSITIONS = ("n_positions", "max_position_embeddings")
# architectures whose feed-forward layer is two matrices, not three
UNGATED = ("gpt_neox", "gpt2", "gptj", "phi", "opt", "bloom", "falcon", "gpt_bigcode", "starcoder2")
# architectures whose output head is the embedding unless their config states otherwise
TIED = ("gpt2", "opt", "bloom", "falcon", "gpt_bigcode", "gemma", "gemma2", "gemma3_text")
LEARNED_POSITIONS = ("gpt2", "opt", "gpt_bigcode")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class ModelShape:
    """parameters: all stored ones. layers, hidden_size, vocab_size: None where only the parameters are known."""

    parameters: int
    layers: int | None = None
    hidden_size: int | None = None
    vocab_size: int | None = None


def shape_of_config(fields: Mapping[str, object], vocab_size: int | None = None) -> ModelShape | None:
    """The shape of a model without experts, whose matrices are counted and whose vectors are not.

    vocab_size: where the fields have none. None for fields that do not state a size.
    """
    hidden, layers, heads = (_number(fields, names) for names in (HIDDEN, LAYERS, HEADS))
    vocab = _number(fields, ("vocab_size",)) or vocab_size
    if not (hidden and layers and vocab) or any(fields.get(name) for name in EXPERTS):
        return None
    name = str(fields.get("architecture") or fields.get("model_type"))
    inner = _number(fields, INNER) or 4 * hidden
    heads = heads or 1
    head_size = _number(fields, ("head_dim",)) or hidden // heads
    key_value_heads = _number(fields, ("num_key_value_heads",)) or heads
    attention = 2 * hidden * head_size * (heads + key_value_heads)
    feed_forward = (2 if name in UNGATED else 3) * hidden * inner
    embeddings = vocab * hidden * (1 if fields.get("tie_word_embeddings", name in TIED) else 2)
    if name in LEARNED_POSITIONS:
        embeddings += (_number(fields, POSITIONS) or 0) * hidden
    return ModelShape(layers * (attention + feed_forward) + embeddings, layers, hidden, vocab)


def _number(fields: Mapping[str, object], names: tuple[str, ...]) -> int | None:
    """The first of the names whose value is a number."""
    return next((value for name in names if isinstance(value := fields.get(name), int)), None)
