"""The loss that training minimises, for one micro batch.

In: a model, rows and the indices of a micro batch. Out: the sum of nll over its targets, with its graph. Dividing by
the target tokens of the global batch is the loop's business, so the cut into micro batches does not change the
objective. There are two ways, with the same gradients to rounding: packed rows with the head at the targets alone, and
the model's own forward pass on padded rows, for models that the packed way does not fit.

B rows, L length, V vocabulary, T targets of the batch, M rows to cut
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from transformers import PreTrainedModel

from s2l_ray.core.arrays import Int64
from s2l_ray.core.data.token_rows import IGNORE, TokenRows, collate
from s2l_ray.core.onednn_linear import FullWidthProducts
from s2l_ray.core.scoring.packed_attention import packed_attention
from s2l_ray.core.scoring.packed_rows import head_of, hidden_at_targets, pack
from s2l_ray.core.training.fused_linear_cross_entropy import sum_nll

PAD = 0
"""Padding is masked and lies right of every target, so any id of the vocabulary will do."""


class TrainingLoss(torch.nn.Module):
    """The model and its loss as one module: what shards or synchronises gradients sees one forward pass.

    `precision` is that of the products; log-softmax and sums are float32 in either. `path` is "packed" or "plain".
    Forward and backward pass belong inside `with loss.ready():`.
    """

    def __init__(self, model: PreTrainedModel, precision: str, path: str) -> None:
        super().__init__()
        self.model = model
        self.precision = precision
        self.path = path

    def forward(self, rows: TokenRows, index_B: Int64) -> torch.Tensor:
        """Sum of -log p over the targets of the rows index_B, on the model's device."""
        way = self._packed if self.path == "packed" else self._plain
        return way(rows, index_B, next(self.model.parameters()).device)

    @contextmanager
    def ready(self, recompute: bool = False) -> Iterator[None]:
        """The model attends as the path needs it, and float32 products go to the faster library.

        Not the products where the backward pass is to `recompute` activations: it would do so without the mode.
        """
        with ExitStack() as stack:
            if self.path == "packed":
                stack.enter_context(packed_attention(self.model))
            if self.precision == "float32" and not recompute:
                stack.enter_context(FullWidthProducts(weights_stay=False))
            yield

    def _packed(self, rows: TokenRows, index_B: Int64, device: torch.device) -> torch.Tensor:
        packed = pack(rows.take(index_B), device)
        with self._autocast(device):
            hidden_TH = hidden_at_targets(self.model, packed, slice(0, len(index_B)))
        dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        return sum_nll(hidden_TH, head_of(self.model), packed.targets_T, dtype)

    def _plain(self, rows: TokenRows, index_B: Int64, device: torch.device) -> torch.Tensor:
        batch = collate(rows, index_B, PAD)
        with self._autocast(device):
            logits_BLV = self.model(
                input_ids=batch.input_ids_BL.to(device),
                attention_mask=batch.attention_mask_BL.to(device),
                use_cache=False,
            ).logits
        labels_BL = batch.labels_BL[:, 1:].to(device)
        is_target_BL = labels_BL != IGNORE
        logits_TV = logits_BLV[:, :-1][is_target_BL].float()
        return torch.nn.functional.cross_entropy(logits_TV, labels_BL[is_target_BL], reduction="sum")

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16")


def micro_batches(rows: TokenRows, rows_M: Int64, size: int) -> Iterator[Int64]:
    """Pieces of rows_M of up to `size` rows of like length, so that little is padded."""
    ordered_M = rows_M[np.argsort(rows.lengths_N[rows_M], kind="stable")]
    for start in range(0, len(ordered_M), size):
        yield ordered_M[start : start + size]
