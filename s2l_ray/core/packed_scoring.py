"""The packed way to score: rows end to end without padding, the head only where a target is predicted.

In: a model and rows sorted by length. Out: float32 values per target token, batch after batch. The model's own code
runs on one row of packed tokens whose positions start at 0 in each sequence; attention stays within sequences
(core/packed_attention.py), and the vocabulary is swept in blocks (core/vocabulary_sweep.py).

X tokens of all rows, B rows of a batch, T target tokens, H hidden size
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from s2l_ray.core.float32_products import FullWidthProducts
from s2l_ray.core.packed_attention import PackedUnsupported, packed_attention
from s2l_ray.core.token_rows import TokenRows, plan_batches
from s2l_ray.core.vocabulary_sweep import TokenValues, sweep_values

Sweep = Callable[[torch.Tensor, torch.nn.Linear, torch.Tensor, frozenset[str]], TokenValues]

CPU_TOKENS = 2048
"""Tokens of a batch on a CPU, whatever the budget: beyond it activations leave the cache and nothing is gained."""


@dataclass(frozen=True)
class _Packed:
    """All rows end to end on the device, moved there once; a batch is a slice of each."""

    ids_X: torch.Tensor
    positions_X: torch.Tensor
    starts_N1: torch.Tensor
    predictors_T: torch.Tensor
    targets_T: torch.Tensor
    first_targets_N1: NDArray[np.int64]
    rows: TokenRows


def packed_token_values(
    model: PreTrainedModel, rows: TokenRows, tokens_per_batch: int, statistics: frozenset[str]
) -> Iterator[TokenValues]:
    """The values of each batch of at most `tokens_per_batch` tokens.

    Raises PackedUnsupported where the model cannot be scored so; that nothing is raised does not prove that it can.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        raise PackedUnsupported(f"the output embeddings are {type(head).__name__}, not a linear layer")
    if model.device.type == "cpu":
        tokens_per_batch = min(tokens_per_batch, CPU_TOKENS)
    packed = _pack(rows, model.device)
    with packed_attention(model), FullWidthProducts():
        for index_B in plan_batches(rows.lengths_N, tokens_per_batch):
            yield _batch_values(model, head, packed, slice(index_B[0], index_B[-1] + 1), statistics)


def _pack(rows: TokenRows, device: torch.device) -> _Packed:
    positions_X = np.arange(len(rows.ids_X)) - np.repeat(rows.starts_N1[:-1], rows.lengths_N)
    target_X = np.flatnonzero(rows.target_mask_X)

    def moved(array: NDArray[np.integer]) -> torch.Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(device)

    return _Packed(
        ids_X=moved(rows.ids_X),
        positions_X=moved(positions_X),
        starts_N1=moved(rows.starts_N1),
        predictors_T=moved(target_X - 1),
        targets_T=moved(rows.ids_X[target_X]),
        first_targets_N1=np.concatenate([[0], np.cumsum(rows.target_tokens_N)]),
        rows=rows,
    )


def _batch_values(
    model: PreTrainedModel, head: torch.nn.Linear, packed: _Packed, batch: slice, statistics: frozenset[str]
) -> TokenValues:
    starts_N1, first_targets_N1 = packed.rows.starts_N1, packed.first_targets_N1
    tokens = slice(starts_N1[batch.start], starts_N1[batch.stop])
    targets = slice(first_targets_N1[batch.start], first_targets_N1[batch.stop])
    starts_B1 = (packed.starts_N1[batch.start : batch.stop + 1] - tokens.start).int()
    longest = int(packed.rows.lengths_N[batch].max())
    hidden_XH = model.base_model(
        input_ids=packed.ids_X[None, tokens],
        position_ids=packed.positions_X[None, tokens],
        use_cache=False,
        cu_seq_lens_q=starts_B1,
        cu_seq_lens_k=starts_B1,
        max_length_q=longest,
        max_length_k=longest,
    ).last_hidden_state[0]
    hidden_TH = hidden_XH[packed.predictors_T[targets] - tokens.start]
    return _sweep_for(hidden_TH)(hidden_TH, head, packed.targets_T[targets], statistics)


def _sweep_for(hidden_TH: torch.Tensor) -> Sweep:
    """The kernel where there is one: Triton's float32 products would be slower than the library's."""
    if hidden_TH.device.type == "cuda" and hidden_TH.dtype != torch.float32 and find_spec("triton"):
        from s2l_ray.core.triton_sweep import triton_values

        return triton_values
    return sweep_values
