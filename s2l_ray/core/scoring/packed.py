"""The packed way to score: rows end to end without padding, the head only where a target is predicted.

In: a model and rows sorted by length. Out: float32 values per target token, batch after batch. Attention stays within
sequences (core/packed_attention.py), and the vocabulary is swept in blocks (core/vocabulary_sweep.py).

T target tokens, H hidden size
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec

import torch
from transformers import PreTrainedModel

from s2l_ray.core.data.token_rows import TokenRows, plan_batches
from s2l_ray.core.onednn_linear import FullWidthProducts
from s2l_ray.core.scoring.packed_attention import packed_attention
from s2l_ray.core.scoring.packed_rows import head_of, hidden_at_targets, pack
from s2l_ray.core.scoring.token_statistics import TokenValues, sweep_values

Sweep = Callable[[torch.Tensor, torch.nn.Linear, torch.Tensor, frozenset[str]], TokenValues]

CPU_TOKENS = 2048
"""Tokens of a batch on a CPU, whatever the budget: beyond it activations leave the cache and nothing is gained."""


def packed_token_values(
    model: PreTrainedModel, rows: TokenRows, tokens_per_batch: int, statistics: frozenset[str]
) -> Iterator[TokenValues]:
    """The values of each batch of at most `tokens_per_batch` tokens.

    Raises PackedUnsupported where the model cannot be scored so; that nothing is raised does not prove that it can.
    """
    head = head_of(model)
    if model.device.type == "cpu":
        tokens_per_batch = min(tokens_per_batch, CPU_TOKENS)
    packed = pack(rows, model.device)
    with packed_attention(model), FullWidthProducts(weights_stay=True):
        for index_B in plan_batches(rows.lengths_N, tokens_per_batch):
            batch = slice(index_B[0], index_B[-1] + 1)
            hidden_TH = hidden_at_targets(model, packed, batch)
            yield _sweep_for(hidden_TH)(hidden_TH, head, packed.targets_T[packed.targets_of(batch)], statistics)


def _sweep_for(hidden_TH: torch.Tensor) -> Sweep:
    """The kernel where there is one: Triton's float32 products would be slower than the library's."""
    if hidden_TH.device.type == "cuda" and hidden_TH.dtype != torch.float32 and find_spec("triton"):
        from s2l_ray.core.scoring.triton_token_statistics import triton_values

        return triton_values
    return sweep_values
