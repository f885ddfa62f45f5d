"""Rows concatenated without padding, and the hidden states at the positions that predict a target.

The model's own code runs on one sequence of packed tokens whose positions restart at 0 in each row.

X tokens of all rows, N rows, B rows of a batch, T target tokens, H hidden size
"""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from s2l_ray.core.arrays import Int64, Integers
from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.scoring.packed_attention import PackedUnsupported


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

    def token_slice(self, batch: slice) -> slice:
        """Range of X that holds the tokens of a batch."""
        return slice(self.rows.starts_N1[batch.start], self.rows.starts_N1[batch.stop])

    def target_slice(self, batch: slice) -> slice:
        """Range of T that holds the targets of a batch."""
        return slice(self.first_targets_N1[batch.start], self.first_targets_N1[batch.stop])


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
    """The model's output embeddings. Raises PackedUnsupported where they are not a linear layer."""
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        raise PackedUnsupported(f"the output embeddings are {type(head).__name__}, not a linear layer")
    return head


def target_hidden_states(model: PreTrainedModel, packed: PackedRows, batch: slice) -> torch.Tensor:
    """hidden_TH of one batch at the positions before its targets. Call it inside `packed_attention(model)`."""
    tokens, targets = packed.token_slice(batch), packed.target_slice(batch)
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
    return hidden_XH[packed.predictors_T[targets] - tokens.start]
