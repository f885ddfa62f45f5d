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
from s2l_ray.core.scoring.head_gradients import captured_inputs, padded_head_gradients
from s2l_ray.core.scoring.token_statistics import TokenStatistics, statistics_from_logits

# Numbers in the logits of one batch: 1 GiB in float32.
MAX_LOGITS = 2**28


def padded_token_statistics(
    model: PreTrainedModel, rows: TokenRows, tokens_per_batch: int, statistics: frozenset[str]
) -> Iterator[TokenStatistics]:
    """Yield the statistics of each batch of at most `tokens_per_batch` padded tokens and MAX_LOGITS logits."""
    max_tokens = max(1, min(tokens_per_batch, MAX_LOGITS // model.config.get_text_config().vocab_size))
    for index_B in plan_batches(rows.lengths_N, max_tokens, rope_switch(model.config)):
        if "grand" in statistics:
            yield _with_head_gradients(model, rows, index_B, statistics)
        else:
            yield statistics_from_logits(*padded_target_logits(model, rows, index_B), statistics)


def _with_head_gradients(
    model: PreTrainedModel, rows: TokenRows, index_B: Int64, statistics: frozenset[str]
) -> TokenStatistics:
    """Statistics of a batch, with `grand`. Raises ValueError for a model that scales or caps the head's output."""
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError(f"{type(model).__name__} has no output head; remove grand from score.statistics")
    with captured_inputs(head) as captured:
        logits_TV, target_T = padded_target_logits(model, rows, index_B)
    is_target_BL = collate(rows, index_B).labels_BL[:, 1:].to(model.device) != IGNORE
    hidden_TH, output_TV = (tensor[:, :-1][is_target_BL] for tensor in captured)
    if not torch.equal(output_TV.to(logits_TV.dtype), logits_TV):
        raise ValueError(f"{type(model).__name__} scales or caps its logits; remove grand from score.statistics")
    values = statistics_from_logits(logits_TV, target_T, statistics)
    tokens_B = rows.target_tokens_N[index_B]
    return values | {"grand": padded_head_gradients(hidden_TH, logits_TV, target_T, values["nll"], tokens_B)}


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
