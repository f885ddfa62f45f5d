"""Padded scoring: the model's own forward pass over padded batches, with full logits.

It works for every causal model of transformers and is the reference that packed scoring is checked against.

B batch, L length, V vocabulary, T target tokens
"""

from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from s2l_ray.core.arrays import Int64
from s2l_ray.core.data.token_rows import IGNORE, TokenRows, collate, plan_batches
from s2l_ray.core.model_config import rope_switch
from s2l_ray.core.scoring.token_statistics import TokenStatistics, statistics_from_logits

# Numbers in the logits of one batch: 1 GiB in float32.
MAX_LOGITS = 2**28


def padded_token_statistics(
    model: PreTrainedModel, rows: TokenRows, tokens_per_batch: int, statistics: frozenset[str]
) -> Iterator[TokenStatistics]:
    """Yield the statistics of each batch of at most `tokens_per_batch` padded tokens and MAX_LOGITS logits."""
    max_tokens = max(1, min(tokens_per_batch, MAX_LOGITS // model.config.get_text_config().vocab_size))
    for index_B in plan_batches(rows.lengths_N, max_tokens, rope_switch(model.config)):
        yield statistics_from_logits(*padded_target_logits(model, rows, index_B), statistics)


def single_token_statistics(
    model: PreTrainedModel, rows: TokenRows, tokens_per_batch: int, statistics: frozenset[str]
) -> Iterator[TokenStatistics]:
    """Yield the statistics of one row at a time, for models that padding changes."""
    return padded_token_statistics(model, rows, 1, statistics)


def padded_target_logits(model: PreTrainedModel, rows: TokenRows, index_B: Int64) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits_TV that predict the targets of the rows index_B, and target_T."""
    batch = collate(rows, index_B)
    ids_BL, mask_BL = batch.input_ids_BL.to(model.device), batch.attention_mask_BL.to(model.device)
    logits_BLV = model(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False).logits
    label_BL = batch.labels_BL[:, 1:].to(model.device)
    is_target_BL = label_BL != IGNORE
    return logits_BLV[:, :-1][is_target_BL], label_BL[is_target_BL]
