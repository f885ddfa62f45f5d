"""Causal attention within each sequence of one packed row, registered with transformers as an attention function.

Every model that uses AttentionInterface can score packed rows with its own code. A CPU computes sequence by sequence;
CUDA uses torch's variable-length kernel in 16 bits and padded attention in float32. Attention arguments that are not
implemented here raise an error instead of being ignored.

X tokens of the packed row, B sequences, L length, H heads, D head dimension, Q query block, K visible keys
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

# Queries, keys and values [H, X, D].
Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

NAME = "s2l_ray_packed"
# Queries per product on a CPU. Larger blocks compute more masked scores, smaller ones spend more time on calls.
QUERY_BLOCKS = {torch.float32: 64, torch.bfloat16: 128}

# Arguments of models that do not change the result. Any other argument that is not None raises PackedUnsupported.
IGNORED_ARGUMENTS = {
    *("cu_seq_lens_k", "max_length_k", "position_ids", "cache_position"),
    *("use_cache", "output_attentions", "output_hidden_states"),
}


class PackedUnsupported(ValueError):
    """The model needs an operation that packed attention does not implement."""


@contextmanager
def packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Use packed attention in `model` within the block. Raises PackedUnsupported if the model does not accept it."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        if model.config._attn_implementation != NAME:
            raise PackedUnsupported(f"{type(model).__name__} does not take a registered attention")
        yield
    finally:
        model.set_attn_implementation(before)


def packed_attention_forward(
    module: torch.nn.Module,
    query_1HXD: torch.Tensor,
    key_1HXD: torch.Tensor,
    value_1HXD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    *,
    dropout: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **arguments: object,
) -> tuple[torch.Tensor, None]:
    """Attention with the signature that transformers calls; returns ([1, X, H, D], None)."""
    _check_mask(attention_mask, sliding_window)
    _check_arguments(arguments)
    if cu_seq_lens_q is None or max_length_q is None:
        raise PackedUnsupported("the sequence boundaries do not reach the attention")
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal) or dropout:
        raise PackedUnsupported("attention is not causal, or has dropout")
    if query_1HXD.dtype != value_1HXD.dtype:  # under autocast rotary embeddings promote query and key
        query_1HXD, key_1HXD = query_1HXD.to(value_1HXD.dtype), key_1HXD.to(value_1HXD.dtype)
    scale = query_1HXD.shape[-1] ** -0.5 if scaling is None else scaling
    window, max_length = sliding_window or None, int(max_length_q)
    qkv_HXD = query_1HXD[0], key_1HXD[0], value_1HXD[0]
    if query_1HXD.device.type == "cpu":
        return attention_per_sequence(qkv_HXD, cu_seq_lens_q.tolist(), scale, window)[None], None
    if window is not None and window >= max_length:
        window = None
    if query_1HXD.dtype != torch.float32 and query_1HXD.shape[-1] % 8 == 0 and query_1HXD.shape[-1] <= 256:
        return variable_length_attention(qkv_HXD, cu_seq_lens_q, max_length, scale, window)[None], None
    if window is not None:
        raise PackedUnsupported("a sliding window over padded attention")
    return padded_attention(qkv_HXD, cu_seq_lens_q, max_length, scale)[None], None


def packed_mask(*_: object, local_size: int | None = None, **__: object) -> torch.Tensor | None:
    """The window of a layer's mask, as a number in place of a mask; None for a layer without window.

    transformers passes it to the attention of that layer, which must have been given the same window.
    """
    return None if local_size is None else torch.tensor(local_size)


def _check_mask(mask: torch.Tensor | None, window: int | None) -> None:
    """Raise PackedUnsupported for a mask of the model's own and for a window that only the mask has."""
    if mask is not None and mask.ndim > 0:
        raise PackedUnsupported("attention has a mask of the model's own")
    if mask is not None and int(mask) != window:
        raise PackedUnsupported("the attention window is part of the mask only")


def _check_arguments(arguments: dict[str, object]) -> None:
    if unsupported := {name for name, value in arguments.items() if value is not None} - IGNORED_ARGUMENTS:
        raise PackedUnsupported(f"attention has the argument {', '.join(sorted(unsupported))}")


def attention_per_sequence(qkv_HXD: Heads, starts_B1: list[int], scale: float, window: int | None) -> torch.Tensor:
    """Each sequence separately, in blocks of queries with only the keys up to the end of the block. Returns out_XHD."""
    query_HXD, key_HXD, value_HXD = _repeat_heads(qkv_HXD)
    pieces = []
    zero, block = query_HXD.new_zeros(()), QUERY_BLOCKS.get(query_HXD.dtype, 128)
    future_QQ = query_HXD.new_full((block, block), -torch.inf).triu_(1)
    for start, end in pairwise(starts_B1):
        for first in range(start, end, block):
            last = min(first + block, end)
            first_key = start if window is None else max(start, first - window + 1)
            key_HDK = key_HXD[:, first_key:last].transpose(1, 2)
            score_HQK = torch.baddbmm(zero, query_HXD[:, first:last], key_HDK, beta=0, alpha=scale)
            score_HQK[:, :, first - first_key :] += future_QQ[: last - first, : last - first]
            if window is not None and last - first_key > window:
                distance_QK = torch.arange(first, last)[:, None] - torch.arange(first_key, last)
                score_HQK.masked_fill_(distance_QK >= window, -torch.inf)
            pieces.append(torch.bmm(score_HQK.softmax(-1), value_HXD[:, first_key:last]).transpose(0, 1))
    return torch.cat(pieces)


def _repeat_heads(qkv_HXD: Heads) -> Heads:
    """As many heads of keys and values as of queries."""
    query_HXD, key_HXD, value_HXD = qkv_HXD
    groups = query_HXD.shape[0] // key_HXD.shape[0]
    if groups == 1:
        return qkv_HXD
    return query_HXD, key_HXD.repeat_interleave(groups, 0), value_HXD.repeat_interleave(groups, 0)


def variable_length_attention(
    qkv_HXD: Heads, starts_B1: torch.Tensor, max_length: int, scale: float, window: int | None
) -> torch.Tensor:
    """torch's variable-length flash attention. Its keywords differ between torch 2.11 and 2.13. Returns out_XHD."""
    attention, parameters = _varlen_kernel()
    keywords: dict[str, object] = {}
    if "window_size" in parameters:
        keywords["window_size"] = (-1 if window is None else window - 1, 0)
    elif window is None:
        keywords["is_causal"] = True
    else:
        raise PackedUnsupported("a sliding window, which variable-length attention of this torch lacks")
    if "enable_gqa" in parameters:
        keywords["enable_gqa"] = qkv_HXD[0].shape[0] != qkv_HXD[1].shape[0]
    else:
        qkv_HXD = _repeat_heads(qkv_HXD)
    qkv_XHD = [each_HXD.transpose(0, 1) for each_HXD in qkv_HXD]
    if "scale" in parameters:
        keywords["scale"] = scale
    else:
        qkv_XHD[0] = qkv_XHD[0] * (scale * qkv_XHD[0].shape[-1] ** 0.5)
    return attention(*qkv_XHD, starts_B1, starts_B1, max_length, max_length, **keywords)


@cache
def _varlen_kernel() -> tuple[Callable[..., torch.Tensor], frozenset[str]]:
    """The kernel and the names of its parameters. Imported on use: only CUDA builds of torch have it."""
    from torch.nn.attention import varlen

    kernel: Callable[..., Any] = varlen.varlen_attn
    return kernel, frozenset(inspect.signature(kernel).parameters)


def padded_attention(qkv_HXD: Heads, starts_B1: torch.Tensor, max_length: int, scale: float) -> torch.Tensor:
    """Sequences padded on the right, where the causal mask also hides the padding. Returns out_XHD."""
    heads, total, _ = qkv_HXD[0].shape
    token_X = torch.arange(total, device=starts_B1.device)
    sequence_X = torch.searchsorted(starts_B1, token_X.to(starts_B1.dtype), right=True) - 1
    padded_X = sequence_X * max_length + token_X - starts_B1[sequence_X]
    rows = len(starts_B1) - 1

    def pad(each_HXD: torch.Tensor) -> torch.Tensor:
        flat = each_HXD.new_zeros(rows * max_length, each_HXD.shape[0], each_HXD.shape[2])
        flat[padded_X] = each_HXD.transpose(0, 1)
        return flat.view(rows, max_length, *flat.shape[1:]).transpose(1, 2)

    gqa = heads != qkv_HXD[1].shape[0]
    query, key, value = map(pad, qkv_HXD)
    out_BHLD = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=gqa)
    return out_BHLD.transpose(1, 2).reshape(rows * max_length, heads, -1)[padded_X]


AttentionInterface.register(NAME, packed_attention_forward)
AttentionMaskInterface.register(NAME, packed_mask)
