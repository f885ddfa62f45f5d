"""Rows end to end without padding, and a model's hidden states where a target is predicted.

In: rows, and a model whose attention stays within sequences (core/packed_attention.py). Out: the hidden states that
predict the targets, row after row. The model's own code runs on one row of packed tokens whose positions start at 0 in
each sequence.

X tokens of all rows, B rows of a batch, T target tokens, H hidden size
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
    """All rows end to end on the device, moved there once; a batch is a slice of each."""

    ids_X: torch.Tensor
    positions_X: torch.Tensor
    starts_N1: torch.Tensor
    predictors_T: torch.Tensor
    targets_T: torch.Tensor
    first_targets_N1: Int64
    rows: TokenRows

    def tokens_of(self, batch: slice) -> slice:
        """The places of a batch's tokens among X; a batch is consecutive rows."""
        return slice(self.rows.starts_N1[batch.start], self.rows.starts_N1[batch.stop])

    def targets_of(self, batch: slice) -> slice:
        """The places of a batch's targets among T."""
        return slice(self.first_targets_N1[batch.start], self.first_targets_N1[batch.stop])


def pack(rows: TokenRows, device: torch.device) -> PackedRows:
    """The rows on the device, in their order."""
    positions_X = np.arange(len(rows.ids_X)) - np.repeat(rows.starts_N1[:-1], rows.lengths_N)
    target_X = np.flatnonzero(rows.target_mask_X)

    def moved(array: Integers) -> torch.Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(device)

    return PackedRows(
        ids_X=moved(rows.ids_X),
        positions_X=moved(positions_X),
        starts_N1=moved(rows.starts_N1),
        predictors_T=moved(target_X - 1),
        targets_T=moved(rows.ids_X[target_X]),
        first_targets_N1=np.concatenate([[0], np.cumsum(rows.target_tokens_N)]),
        rows=rows,
    )


def head_of(model: PreTrainedModel) -> torch.nn.Linear:
    """The output embeddings. Raises PackedUnsupported where they are no linear layer."""
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        raise PackedUnsupported(f"the output embeddings are {type(head).__name__}, not a linear layer")
    return head


def hidden_at_targets(model: PreTrainedModel, packed: PackedRows, batch: slice) -> torch.Tensor:
    """hidden_TH of one batch, at the positions before its targets. The model must attend by `packed_attention`."""
    tokens, targets = packed.tokens_of(batch), packed.targets_of(batch)
    starts_B1 = (packed.starts_N1[batch.start : batch.stop + 1] - tokens.start).int()
    longest = int(packed.rows.lengths_N[batch].max())
    hidden_XH: torch.Tensor = model.base_model(
        input_ids=packed.ids_X[None, tokens],
        position_ids=packed.positions_X[None, tokens],
        use_cache=False,
        cu_seq_lens_q=starts_B1,
        cu_seq_lens_k=starts_B1,
        max_length_q=longest,
        max_length_k=longest,
    ).last_hidden_state[0]
    return hidden_XH[packed.predictors_T[targets] - tokens.start]
