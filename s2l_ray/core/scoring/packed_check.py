"""Check of packed scoring against the model's padded forward pass on a few rows.

A model may scale or cap its logits after the output embeddings, mix tokens of neighbouring rows, or implement its own
attention. With random weights that changes a loss by less than rounding does, so the check also requires logits equal
to the head's output bit for bit, and first compares losses with the weights in float32.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from s2l_ray.core.data.token_rows import TokenRows, collate
from s2l_ray.core.scoring.packed import packed_token_statistics
from s2l_ray.core.scoring.padded import MAX_LOGITS, padded_token_statistics

# Nats of a row's mean loss. In bfloat16 the two computations round differently, so the float32 check decides whether
# they are the same computation.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 0.05}

PROBE_ROWS = 8


@dataclass(frozen=True)
class AttentionChoice:
    """Attention that scores or trains a model ("padded" or "packed") and the reason.

    difference: of the packed and padded results that were compared, in nats of a row's mean loss or as the relative
    difference of gradients; None if nothing was compared or the difference is not finite.
    """

    attention: str
    reason: str
    difference: float | None = None


def check_packed_scoring(model: PreTrainedModel, rows: TokenRows, tokens_per_batch: int) -> AttentionChoice:
    """Compare packed and padded losses of PROBE_ROWS rows, which include the longest one.

    Long rows matter: attention windows and position limits show there only.
    """
    probe = probe_rows(model, rows)
    if not len(probe):
        return AttentionChoice("padded", "no row has a target to compare")
    try:
        with torch.inference_mode():
            with _float32_weights(model):
                if not _logits_are_head_output(model, probe):
                    return AttentionChoice(
                        "padded", "the logits are more than the output embeddings' product: scaled or capped"
                    )
                choice = _compare_losses(model, probe, tokens_per_batch, TOLERANCES[torch.float32])
            if choice.attention == "packed" and model.dtype != torch.float32:
                choice = _compare_losses(model, probe, tokens_per_batch, TOLERANCES[model.dtype])
            return choice
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # model code may fail on packed rows in any way; padded scoring is the fallback
        return AttentionChoice("padded", f"packed rows: {type(error).__name__}: {error}")


def probe_rows(model: PreTrainedModel, rows: TokenRows) -> TokenRows:
    """Rows spread evenly over the lengths, up to the longest that fits the model's positions and MAX_LOGITS."""
    longest = min(MAX_LOGITS // model.config.get_text_config().vocab_size, max_positions(model))
    usable_M = np.flatnonzero((rows.target_tokens_N > 0) & (rows.lengths_N <= longest))
    usable_M = usable_M[np.argsort(rows.lengths_N[usable_M], kind="stable")]
    spread = np.linspace(0, len(usable_M) - 1, min(PROBE_ROWS, len(usable_M))).round().astype(np.int64)
    return rows.take(usable_M[spread])


def max_positions(model: PreTrainedModel) -> int:
    """Longest row that the model has positions for; sys.maxsize if its config states none."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize


@contextmanager
def _float32_weights(model: PreTrainedModel) -> Iterator[None]:
    """Run the block with float32 copies of the weights, then restore the original tensors."""
    originals = [(parameter, parameter.data) for parameter in model.parameters()]
    try:
        for parameter, data in originals:
            parameter.data = data.float()
        yield
    finally:
        for parameter, data in originals:
            parameter.data = data


def _logits_are_head_output(model: PreTrainedModel, probe: TokenRows) -> bool:
    """Whether the logits equal the output embeddings applied to the last hidden state, bit for bit."""
    ids_1L = collate(probe, [len(probe) - 1]).input_ids_BL.to(model.device)
    hidden_1LH = model.base_model(input_ids=ids_1L, use_cache=False).last_hidden_state
    logits_1LV = model(input_ids=ids_1L, use_cache=False).logits
    head = model.get_output_embeddings()
    return head is not None and bool((head(hidden_1LH) == logits_1LV).all())


def _compare_losses(
    model: PreTrainedModel, probe: TokenRows, tokens_per_batch: int, tolerance: float
) -> AttentionChoice:
    """Compare packed scoring of all rows together with padded scoring of each row alone."""
    first_T = np.concatenate([[0], np.cumsum(probe.target_tokens_N)[:-1]])
    mean_loss = []
    for batches in (
        packed_token_statistics(model, probe, tokens_per_batch, frozenset()),
        padded_token_statistics(model, probe, 1, frozenset()),
    ):
        nll_T = torch.cat([batch["nll"] for batch in batches]).double().cpu().numpy()
        mean_loss.append(np.add.reduceat(nll_T, first_T) / probe.target_tokens_N)
    difference = float(np.abs(mean_loss[0] - mean_loss[1]).max())
    if difference <= tolerance:
        return AttentionChoice("packed", "agrees with the padded forward pass", difference)
    finite = difference if math.isfinite(difference) else None
    return AttentionChoice("padded", "packed rows differ from the padded forward pass", finite)
