"""What users would score a pool with instead, each as it is usually written. Rows in, mean loss of each row out.

official: the loop of S2L's own code, one row at a time, float32, whole logits, the loss that transformers returns.
padded: 16 rows a batch in the order of the pool, padded to the longest, cross entropy over whole logits.
harness: lm-evaluation-harness's loglikelihood loop: longest rows first, padded batches, log_softmax over whole logits,
then the continuation's part of each row gathered.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy, log_softmax
from transformers import PreTrainedModel

from s2l_ray.core.data.token_rows import TokenRows, collate

BATCH = 16
Losses = NDArray[np.float64]


@torch.no_grad()
def official(model: PreTrainedModel, rows: TokenRows) -> Losses:
    """Batch size 1 and `.loss`."""
    losses = []
    for index in range(len(rows)):
        batch = collate(rows, [index])
        input_ids, labels = batch.input_ids_BL.to(model.device), batch.labels_BL.to(model.device)
        losses.append(model(input_ids=input_ids, labels=labels).loss.item())
    return np.array(losses)


@torch.no_grad()
def padded(model: PreTrainedModel, rows: TokenRows) -> Losses:
    """Padded batches of 16, in the pool's order."""
    losses = np.empty(len(rows))
    for first in range(0, len(rows), BATCH):
        index_B = np.arange(first, min(first + BATCH, len(rows)))
        batch = collate(rows, index_B)
        logits = model(
            input_ids=batch.input_ids_BL.to(model.device), attention_mask=batch.attention_mask_BL.to(model.device)
        ).logits
        labels = batch.labels_BL[:, 1:].to(model.device)
        nll = cross_entropy(logits[:, :-1].float().transpose(1, 2), labels, ignore_index=-100, reduction="none")
        losses[index_B] = (nll.sum(1) / (labels != -100).sum(1)).cpu().numpy()
    return losses


@torch.no_grad()
def harness(model: PreTrainedModel, rows: TokenRows, batch_size: int = BATCH) -> Losses:
    """Padded batches, longest rows first, whole log_softmax."""
    losses = np.empty(len(rows))
    order = np.argsort(-rows.lengths_N, kind="stable")
    for first in range(0, len(rows), batch_size):
        index_B = order[first : first + batch_size]
        input_ids = collate(rows, index_B).input_ids_BL.to(model.device)
        logprobs = log_softmax(model(input_ids).logits, dim=-1, dtype=torch.float32)
        for position, index in enumerate(index_B):
            length = int(rows.lengths_N[index])
            first_target = length - int(rows.target_tokens_N[index])
            continuation = input_ids[position, first_target:length]
            own = logprobs[position, first_target - 1 : length - 1].gather(1, continuation[:, None])
            losses[index] = -own.sum().item() / len(continuation)
    return losses
