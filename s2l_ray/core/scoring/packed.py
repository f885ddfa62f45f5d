"""Packed scoring: rows concatenated without padding, the output head applied to target positions only.

Attention stays within each row (packed_attention.py), and the softmax runs over blocks of the vocabulary, so that
full logits are never in memory (token_statistics.py).

T target tokens, H hidden size
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec

import torch
from transformers import PreTrainedModel

from s2l_ray.core.data.token_rows import TokenRows, plan_batches
from s2l_ray.core.onednn_linear import OneDnnLinearMode
from s2l_ray.core.scoring.packed_attention import packed_attention
from s2l_ray.core.scoring.packed_rows import output_head, pack, target_hidden_states
from s2l_ray.core.scoring.token_statistics import TokenStatistics, statistics_from_hidden

StatisticsKernel = Callable[[torch.Tensor, torch.nn.Linear, torch.Tensor, frozenset[str]], TokenStatistics]

# Larger batches do not fit the cache of a CPU and are no faster.
MAX_CPU_TOKENS = 2048


def packed_token_statistics(
    model: PreTrainedModel, rows: TokenRows, tokens_per_batch: int, statistics: frozenset[str]
) -> Iterator[TokenStatistics]:
    """Yield the statistics of each batch of at most `tokens_per_batch` tokens; `rows` are sorted by length.

    Raises PackedUnsupported where the model is known not to fit. A model that does not raise may still give wrong
    results; see packed_check.py.
    """
    head = output_head(model)
    if model.device.type == "cpu":
        tokens_per_batch = min(tokens_per_batch, MAX_CPU_TOKENS)
    packed = pack(rows, model.device)
    with packed_attention(model), OneDnnLinearMode(frozen_weights=True):
        for index_B in plan_batches(rows.lengths_N, tokens_per_batch):
            batch = slice(index_B[0], index_B[-1] + 1)
            hidden_TH = target_hidden_states(model, packed, batch)
            target_T = packed.targets_T[packed.target_slice(batch)]
            yield _statistics_kernel(hidden_TH)(hidden_TH, head, target_T, statistics)


def _statistics_kernel(hidden_TH: torch.Tensor) -> StatisticsKernel:
    """Triton's kernel for 16-bit weights on CUDA; in float32 its products are slower than cuBLAS."""
    if hidden_TH.device.type == "cuda" and hidden_TH.dtype != torch.float32 and find_spec("triton"):
        from s2l_ray.core.scoring.triton_token_statistics import triton_statistics_from_hidden

        return triton_statistics_from_hidden
    return statistics_from_hidden
