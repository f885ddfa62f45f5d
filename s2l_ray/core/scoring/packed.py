"""Packed scoring: rows concatenated without padding, the output head applied to target positions only.

The model's own code runs on one sequence of packed tokens whose positions restart at 0 in each row. Attention stays
within each row (packed_attention.py), and the softmax runs over blocks of the vocabulary, so that full logits are never
in memory (token_statistics.py).

X tokens of all rows, N rows, B rows of a batch, T target tokens, H hidden size
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from transformers import PreTrainedModel

from s2l_ray.core.arrays import Int64, Integers
from s2l_ray.core.data.token_rows import TokenRows, plan_batches
from s2l_ray.core.model_config import rope_switch
from s2l_ray.core.onednn_linear import OneDnnLinearMode
from s2l_ray.core.scoring.head_gradients import packed_head_gradients
from s2l_ray.core.scoring.packed_attention import PackedUnsupported, packed_attention
from s2l_ray.core.scoring.token_statistics import TokenStatistics, statistics_from_hidden

StatisticsKernel = Callable[[torch.Tensor, torch.nn.Linear, torch.Tensor, frozenset[str]], TokenStatistics]

# Larger batches do not fit the cache of a CPU and are no faster.
MAX_CPU_TOKENS = 2048


def packed_token_statistics(
    model: PreTrainedModel, rows: TokenRows, tokens_per_batch: int, statistics: frozenset[str]
) -> Iterator[TokenStatistics]:
    """Yield the statistics of each batch of at most `tokens_per_batch` tokens; `rows` are sorted by length.

    Raises PackedUnsupported if the model is known not to fit. A model that does not raise may still give wrong
    results; see packed_check.py.
    """
    head = output_head(model)
    if model.device.type == "cpu":
        tokens_per_batch = min(tokens_per_batch, MAX_CPU_TOKENS)
    packed = pack(rows, model.device)
    with packed_attention(model), OneDnnLinearMode(frozen_weights=True):
        for index_B in plan_batches(rows.lengths_N, tokens_per_batch, rope_switch(model.config)):
            batch = slice(index_B[0], index_B[-1] + 1)
            hidden_TH, target_T = target_hidden_states(model, packed, batch)
            values = _statistics_kernel(hidden_TH)(hidden_TH, head, target_T, statistics)
            if "grand" in statistics:
                tokens_B = rows.target_tokens_N[batch]
                values["grand"] = packed_head_gradients(hidden_TH, head, target_T, values["nll"], tokens_B)
            yield values


def _statistics_kernel(hidden_TH: torch.Tensor) -> StatisticsKernel:
    """Triton's kernel for 16-bit weights on CUDA; in float32 its products are slower than cuBLAS."""
    if hidden_TH.device.type == "cuda" and hidden_TH.dtype != torch.float32 and find_spec("triton"):
        from s2l_ray.core.scoring.triton_token_statistics import triton_statistics_from_hidden

        return triton_statistics_from_hidden
    return statistics_from_hidden


@dataclass(frozen=True)
class PackedRows:
    """All rows, concatenated and copied to the device once; a batch is a slice of consecutive rows."""

    ids_X: torch.Tensor
    positions_X: torch.Tensor
    starts_N1: torch.Tensor
    predictors_T: torch.Tensor
    targets_T: torch.Tensor
    first_targets_N1: Int64
    rows: TokenRows


def pack(rows: TokenRows, device: torch.device) -> PackedRows:
    """Concatenate the rows, in their order, on `device`."""
    positions_X = np.arange(len(rows.ids_X)) - np.repeat(rows.starts_N1[:-1], rows.lengths_N)
    target_X = np.flatnonzero(rows.target_mask_X)

    def to_device(array: Integers) -> torch.Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(device)

    return PackedRows(
        ids_X=to_device(rows.ids_X),
        positions_X=to_device(positions_X),
        starts_N1=to_device(rows.starts_N1),
        predictors_T=to_device(target_X - 1),
        targets_T=to_device(rows.ids_X[target_X]),
        first_targets_N1=np.concatenate([[0], np.cumsum(rows.target_tokens_N)]),
        rows=rows,
    )


def output_head(model: PreTrainedModel) -> torch.nn.Linear:
    """The model's output embeddings. Raises PackedUnsupported if they are not a linear layer."""
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        raise PackedUnsupported(f"the output embeddings are {type(head).__name__}, not a linear layer")
    return head


def hidden_states(model: PreTrainedModel, packed: PackedRows, batch: slice) -> torch.Tensor:
    """hidden_XH of all tokens of a batch. Call it in `packed_attention(model)`."""
    tokens = slice(packed.rows.starts_N1[batch.start], packed.rows.starts_N1[batch.stop])
    starts_B1 = (packed.starts_N1[batch.start : batch.stop + 1] - tokens.start).int()
    max_length = int(packed.rows.lengths_N[batch].max())
    hidden_XH: torch.Tensor = model.base_model(
        input_ids=packed.ids_X[None, tokens],
        position_ids=packed.positions_X[None, tokens],
        use_cache=False,
        cu_seq_lens_q=starts_B1,
        cu_seq_lens_k=starts_B1,
        max_length_q=max_length,
        max_length_k=max_length,
    ).last_hidden_state[0]
    return hidden_XH


def target_hidden_states(model: PreTrainedModel, packed: PackedRows, batch: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """hidden_TH at the positions before the targets of a batch, and target_T. Call it in `packed_attention(model)`."""
    targets = slice(packed.first_targets_N1[batch.start], packed.first_targets_N1[batch.stop])
    hidden_XH = hidden_states(model, packed, batch)
    first_token = packed.rows.starts_N1[batch.start]
    return hidden_XH[packed.predictors_T[targets] - first_token], packed.targets_T[targets]
