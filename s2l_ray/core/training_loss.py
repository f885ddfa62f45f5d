"""The loss that training minimises, for one micro batch.

In: a model, rows and the indices of a micro batch. Out: the sum of nll over its targets, with its graph. Dividing by
the target tokens of the global batch is the loop's business, so the cut into micro batches does not change the
objective.

B rows, L length, V vocabulary, T targets of the batch, M rows to cut
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from s2l_ray.core.token_rows import IGNORE, TokenRows, collate

PAD = 0
"""Padding is masked and lies right of every target, so any id of the vocabulary will do."""


def nll_sum(model: torch.nn.Module, rows: TokenRows, index_B: NDArray[np.int64], precision: str) -> torch.Tensor:
    """Sum of -log p over the targets of the rows index_B, on the model's device.

    `precision` is that of the forward pass; log-softmax and sum are float32 in either.
    """
    device = next(model.parameters()).device
    batch = collate(rows, index_B, PAD)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        logits_BLV = model(
            input_ids=batch.input_ids_BL.to(device),
            attention_mask=batch.attention_mask_BL.to(device),
            use_cache=False,
        ).logits
    labels_BL = batch.labels_BL[:, 1:].to(device)
    is_target_BL = labels_BL != IGNORE
    logits_TV = logits_BLV[:, :-1][is_target_BL].float()
    return torch.nn.functional.cross_entropy(logits_TV, labels_BL[is_target_BL], reduction="sum")


def micro_batches(rows: TokenRows, rows_M: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Pieces of rows_M of up to `size` rows of like length, so that little is padded."""
    ordered_M = rows_M[np.argsort(rows.lengths_N[rows_M], kind="stable")]
    for start in range(0, len(ordered_M), size):
        yield ordered_M[start : start + size]
