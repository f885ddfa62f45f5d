"""Causal attention within each of the sequences that lie end to end in one packed row.

In: query, key and value of X packed tokens, and where each sequence starts. Out: what each token attends to.
It is registered with transformers under NAME, so that every model whose attention goes through AttentionInterface can
score packed rows with its own code. A CPU goes sequence by sequence; CUDA takes torch's variable-length kernel in 16
bits and padded attention in 32. What a model asks of attention beyond that is refused, not ignored.

X tokens of the packed row, B sequences, L length, H heads, D head dimension, Q query block, K keys it sees
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

NAME = "s2l_ray_packed"
QUERY_BLOCKS = {torch.float32: 64, torch.bfloat16: 128}
"""Queries of a product on a CPU: more waste products on keys that they do not see, fewer waste calls."""

UNDERSTOOD = {
    *("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "position_ids", "cache_position"),
    *("sliding_window", "is_causal", "dropout", "use_cache", "output_attentions", "output_hidden_states"),
}
"""What a model may hand to its attention. Anything else that is not None is refused."""


class PackedUnsupported(ValueError):
    """The model asks for something that packed scoring does not do."""


@contextmanager
def packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within it the model's attention is `attend`. Raises PackedUnsupported where the model does not take it."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        if model.config._attn_implementation != NAME:
            raise PackedUnsupported(f"{type(model).__name__} does not take a registered attention")
        yield
    finally:
        model.set_attn_implementation(before)


def attend(
    module: torch.nn.Module,
    query_1HXD: torch.Tensor,
    key_1HXD: torch.Tensor,
    value_1HXD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **arguments: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function as transformers calls it; returns ([1, X, H, D], None)."""
    _refuse_unknown(module, attention_mask, arguments)
    if query_1HXD.dtype != value_1HXD.dtype:  # autocast: what rotates positions promotes query and key
        query_1HXD, key_1HXD = query_1HXD.to(value_1HXD.dtype), key_1HXD.to(value_1HXD.dtype)
    scale = query_1HXD.shape[-1] ** -0.5 if scaling is None else scaling
    window = arguments.get("sliding_window") or None
    starts_B1, longest = arguments["cu_seq_lens_q"], int(arguments["max_length_q"])
    qkv_HXD = query_1HXD[0], key_1HXD[0], value_1HXD[0]
    if query_1HXD.device.type == "cpu":
        return attend_one_by_one(*qkv_HXD, starts_B1.tolist(), scale, window)[None], None
    if window is not None and window >= longest:
        window = None
    if query_1HXD.dtype != torch.float32 and query_1HXD.shape[-1] % 8 == 0 and query_1HXD.shape[-1] <= 256:
        return attend_variable_length(*qkv_HXD, starts_B1, longest, scale, window)[None], None
    if window is not None:
        raise PackedUnsupported("a sliding window over padded attention")
    return attend_padded(*qkv_HXD, starts_B1, longest, scale)[None], None


def _refuse_unknown(module: torch.nn.Module, mask: torch.Tensor | None, arguments: dict[str, Any]) -> None:
    asked = {name for name, value in arguments.items() if value is not None} - UNDERSTOOD
    if asked or mask is not None:
        raise PackedUnsupported(f"attention asks for {', '.join(sorted(asked)) or 'a mask'}")
    if arguments.get("cu_seq_lens_q") is None:
        raise PackedUnsupported("the sequence boundaries do not reach the attention")
    is_causal = arguments.get("is_causal")
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal) or arguments.get("dropout"):
        raise PackedUnsupported("attention is not causal, or has dropout")


def attend_one_by_one(
    query_HXD: torch.Tensor,
    key_HXD: torch.Tensor,
    value_HXD: torch.Tensor,
    starts_B1: list[int],
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """Each sequence apart, in blocks of queries that see only the keys up to their own end. Returns out_XHD."""
    groups = query_HXD.shape[0] // key_HXD.shape[0]
    if groups > 1:
        key_HXD, value_HXD = key_HXD.repeat_interleave(groups, 0), value_HXD.repeat_interleave(groups, 0)
    pieces = []
    zero, block = query_HXD.new_zeros(()), QUERY_BLOCKS.get(query_HXD.dtype, 128)
    future_QQ = query_HXD.new_full((block, block), -torch.inf).triu_(1)
    for start, end in pairwise(starts_B1):
        for first in range(start, end, block):
            last = min(first + block, end)
            seen = start if window is None else max(start, first - window + 1)
            key_HDK = key_HXD[:, seen:last].transpose(1, 2)
            score_HQK = torch.baddbmm(zero, query_HXD[:, first:last], key_HDK, beta=0, alpha=scale)
            score_HQK[:, :, first - seen :] += future_QQ[: last - first, : last - first]
            if window is not None and last - seen > window:
                distance_QK = torch.arange(first, last)[:, None] - torch.arange(seen, last)
                score_HQK.masked_fill_(distance_QK >= window, -torch.inf)
            pieces.append(torch.bmm(score_HQK.softmax(-1), value_HXD[:, seen:last]).transpose(0, 1))
    return torch.cat(pieces)


def attend_variable_length(
    query_HXD: torch.Tensor,
    key_HXD: torch.Tensor,
    value_HXD: torch.Tensor,
    starts_B1: torch.Tensor,
    longest: int,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """torch's variable-length flash attention; its keywords differ between torch 2.11 and 2.13. Returns out_XHD."""
    attention, known = _kernel()
    keywords: dict[str, Any] = {}
    if "window_size" in known:
        keywords["window_size"] = (-1 if window is None else window - 1, 0)
    elif window is None:
        keywords["is_causal"] = True
    else:
        raise PackedUnsupported("a sliding window, which this torch's variable-length attention lacks")
    if "scale" in known:
        keywords["scale"] = scale
    else:
        query_HXD = query_HXD * (scale * query_HXD.shape[-1] ** 0.5)
    groups = query_HXD.shape[0] // key_HXD.shape[0]
    if groups > 1 and "enable_gqa" in known:
        keywords["enable_gqa"] = True
    elif groups > 1:
        key_HXD, value_HXD = key_HXD.repeat_interleave(groups, 0), value_HXD.repeat_interleave(groups, 0)
    qkv_XHD = [each_HXD.transpose(0, 1) for each_HXD in (query_HXD, key_HXD, value_HXD)]
    out_XHD: torch.Tensor = attention(*qkv_XHD, starts_B1, starts_B1, longest, longest, **keywords)
    return out_XHD


@cache
def _kernel() -> tuple[Callable[..., Any], frozenset[str]]:
    """The kernel and the names of its arguments; CUDA builds of torch have it."""
    from torch.nn.attention import varlen

    return varlen.varlen_attn, frozenset(inspect.signature(varlen.varlen_attn).parameters)


def attend_padded(
    query_HXD: torch.Tensor,
    key_HXD: torch.Tensor,
    value_HXD: torch.Tensor,
    starts_B1: torch.Tensor,
    longest: int,
    scale: float,
) -> torch.Tensor:
    """Sequences padded on the right, where causality alone hides the padding. Returns out_XHD."""
    total = query_HXD.shape[1]
    token_X = torch.arange(total, device=query_HXD.device)
    sequence_X = torch.searchsorted(starts_B1, token_X.to(starts_B1.dtype), right=True) - 1
    place_X = sequence_X * longest + token_X - starts_B1[sequence_X]
    rows = len(starts_B1) - 1

    def pad(each_HXD: torch.Tensor) -> torch.Tensor:
        flat = each_HXD.new_zeros(rows * longest, each_HXD.shape[0], each_HXD.shape[2])
        flat[place_X] = each_HXD.transpose(0, 1)
        return flat.view(rows, longest, *flat.shape[1:]).transpose(1, 2)

    out_BHLD = scaled_dot_product_attention(
        pad(query_HXD),
        pad(key_HXD),
        pad(value_HXD),
        is_causal=True,
        scale=scale,
        enable_gqa=query_HXD.shape[0] != key_HXD.shape[0],
    )
    return out_BHLD.transpose(1, 2).reshape(rows * longest, query_HXD.shape[0], -1)[place_X]


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)
