"""Padded scoring: the model's own forward pass over padded batches, with full logits.

It works for every causal model of transformers and is the reference that packed scoring is checked against.

B batch, L length, V vocabulary, T target tokens
"""

from collections.abc import Iterator

from transformers import PreTrainedModel

from s2l_ray.core.data.token_rows import IGNORE, PAD, TokenRows, collate, plan_batches
from s2l_ray.core.scoring.token_statistics import TokenStatistics, statistics_from_logits

# Numbers in the logits of one batch: 1 GiB in float32.
MAX_LOGITS = 2**28


def padded_token_statistics(
    model: PreTrainedModel, rows: TokenRows, tokens_per_batch: int, statistics: frozenset[str]
) -> Iterator[TokenStatistics]:
    """Yield the statistics of each batch of at most `tokens_per_batch` padded tokens and MAX_LOGITS logits."""
    max_tokens = max(1, min(tokens_per_batch, MAX_LOGITS // model.config.get_text_config().vocab_size))
    for index_B in plan_batches(rows.lengths_N, max_tokens):
        batch = collate(rows, index_B, PAD)
        logits_BLV = model(
            input_ids=batch.input_ids_BL.to(model.device),
            attention_mask=batch.attention_mask_BL.to(model.device),
            use_cache=False,
        ).logits
        label_BL = batch.labels_BL[:, 1:].to(model.device)
        is_target_BL = label_BL != IGNORE
        yield statistics_from_logits(logits_BLV[:, :-1][is_target_BL], label_BL[is_target_BL], statistics)
