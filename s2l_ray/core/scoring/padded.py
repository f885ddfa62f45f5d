"""The plain way to score: the model's own forward pass over padded batches, whole logits and all.

In: a model and rows sorted by length. Out: float32 values per target token, batch after batch. It takes every model
that transformers knows, whatever its head or its attention does, and is what the packed way is proved against.

B batch, L length, V vocabulary, T target tokens
"""

from collections.abc import Iterator

from transformers import PreTrainedModel

from s2l_ray.core.data.token_rows import IGNORE, TokenRows, collate, plan_batches
from s2l_ray.core.scoring.token_statistics import TokenValues, logit_values

PAD = 0
"""Padding is masked and lies right of every target, so any id of the vocabulary will do."""

LOGITS = 2**28
"""Numbers in a batch's whole logits; 1 GiB in float32."""


def plain_token_values(
    model: PreTrainedModel, rows: TokenRows, tokens_per_batch: int, statistics: frozenset[str]
) -> Iterator[TokenValues]:
    """The values of each batch of at most `tokens_per_batch` padded tokens; fewer where logits would pass LOGITS."""
    longest = max(1, min(tokens_per_batch, LOGITS // model.config.get_text_config().vocab_size))
    for index_B in plan_batches(rows.lengths_N, longest):
        batch = collate(rows, index_B, PAD)
        logits_BLV = model(
            input_ids=batch.input_ids_BL.to(model.device),
            attention_mask=batch.attention_mask_BL.to(model.device),
            use_cache=False,
        ).logits
        label_BL = batch.labels_BL[:, 1:].to(model.device)
        kept_BL = label_BL != IGNORE
        yield logit_values(logits_BLV[:, :-1][kept_BL], label_BL[kept_BL], statistics)
