"""Check of padded batches against each row alone.

Some models read the padding, ignore the attention mask or scale by the longest row of the batch. Their rows are run one
at a time.
"""

import math

import numpy as np
import torch
from transformers import PreTrainedModel

from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.scoring.packed_check import AttentionChoice
from s2l_ray.core.scoring.padded import MAX_LOGITS, padded_token_statistics
from s2l_ray.core.scoring.probe import float32_weights

# Of the loss of one target token, in nats or relative to a loss above 1, by the dtype of the weights. Far above
# rounding, which depends on the shape of the batch, and far below the effect of padding.
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.05}


def check_padded(model: PreTrainedModel, probe: TokenRows, reason: str) -> AttentionChoice:
    """Padded attention, for `reason`, if the probe rows in padded batches have the losses that each has alone.

    Rows that are longer than a batch are always alone and are left out.
    """
    probe = probe.take(np.flatnonzero(probe.lengths_N <= MAX_LOGITS // model.config.get_text_config().vocab_size))
    if not len(probe):
        return AttentionChoice("padded", reason)
    with torch.no_grad(), float32_weights(model):
        together_T, alone_T = (
            torch.cat([batch["nll"] for batch in padded_token_statistics(model, probe, tokens, frozenset())])
            for tokens in (MAX_LOGITS, 1)
        )
    difference = float(((together_T - alone_T).abs() / alone_T.clamp(min=1)).max())
    if difference <= TOLERANCES[torch.float32]:
        return AttentionChoice("padded", reason, difference)
    finite = difference if math.isfinite(difference) else None
    return AttentionChoice("single", f"{reason}; rows in padded batches differ from each row alone", finite)
