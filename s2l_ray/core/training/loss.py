"""Training loss of one micro batch: the sum of the negative log-likelihood over its target tokens.

The training loop divides by the target tokens of the global batch, so the division into micro batches does not change
the objective. Packed and padded attention give the same gradients to rounding; packed applies the head to target
positions only, padded is the model's own forward pass for models that packing does not fit.

B rows, V vocabulary, T targets of the batch, H hidden size, M rows of a rank
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from transformers import PreTrainedModel

from s2l_ray.core.arrays import Int64
from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.model_config import rope_switch
from s2l_ray.core.onednn_linear import OneDnnLinearMode
from s2l_ray.core.scoring.packed import output_head, pack, target_hidden_states
from s2l_ray.core.scoring.packed_attention import packed_attention
from s2l_ray.core.scoring.padded import padded_target_logits
from s2l_ray.core.training.fused_linear_cross_entropy import sum_nll


class TrainingLoss(torch.nn.Module):
    """The model and its loss as one module, so that DDP and FSDP see one forward pass.

    precision: of the matrix products; log-softmax and sums are always float32. attention: "packed", "padded" or
    "single" (one row at a time).
    Run forward and backward passes inside `with loss.execution_context():`.
    """

    def __init__(self, model: PreTrainedModel, precision: str, attention: str) -> None:
        super().__init__()
        self.model = model
        self.precision = precision
        self.attention = attention

    def forward(self, rows: TokenRows, index_B: Int64) -> torch.Tensor:
        """Sum of -log p over the targets of the rows index_B, on the model's device."""
        device = next(self.model.parameters()).device
        autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16")
        if self.attention != "packed":
            with autocast:
                logits_TV, target_T = padded_target_logits(self.model, rows, index_B)
            return torch.nn.functional.cross_entropy(logits_TV.float(), target_T, reduction="sum")
        packed = pack(rows.take(index_B), device)
        with autocast:
            hidden_TH, target_T = target_hidden_states(self.model, packed, slice(0, len(index_B)))
        dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        return sum_nll(hidden_TH, output_head(self.model), target_T, dtype)

    def micro_batches(self, rows: TokenRows, rows_M: Int64, size: int) -> Iterator[Int64]:
        """Yield up to `size` of the rows rows_M at a time, sorted by length to reduce padding."""
        ordered_M = rows_M[np.argsort(rows.lengths_N[rows_M], kind="stable")]
        short = int(np.searchsorted(rows.lengths_N[ordered_M], rope_switch(self.model.config), side="right"))
        size = 1 if self.attention == "single" else size
        for part_M in (ordered_M[:short], ordered_M[short:]):
            for start in range(0, len(part_M), size):
                yield part_M[start : start + size]

    @contextmanager
    def execution_context(self, recompute: bool = False) -> Iterator[None]:
        """Set the model's attention, and compute float32 products with oneDNN.

        With `recompute` (gradient checkpointing) products stay with torch, because the recomputation in the backward
        pass runs outside the oneDNN mode.
        """
        with ExitStack() as stack:
            if self.attention == "packed":
                stack.enter_context(packed_attention(self.model))
            if self.precision == "float32" and not recompute:
                stack.enter_context(OneDnnLinearMode(frozen_weights=False))
            yield
