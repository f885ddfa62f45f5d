"""Whether the packed way may score a model: tried against the model's own forward pass before a run relies on it.

In: a model and the rows of a run. Out: the way to take, how far the two ways lay apart, and the reason.
A model may scale or cap its logits behind the output embeddings, mix tokens of neighbouring rows, or attend in a way
of its own. An untrained one can do all of that and hardly show it in its loss, so the logits are held to the last bit
and the losses are first compared with the weights in float32, where rounding hides nothing.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from s2l_ray.core.data.token_rows import TokenRows, collate
from s2l_ray.core.scoring.packed import packed_token_values
from s2l_ray.core.scoring.padded import LOGITS, PAD, plain_token_values

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 0.05}
"""Nats of a row's mean loss. In bfloat16 the two ways round differently; float32 has proved the structure by then."""

PROBE_ROWS = 8


@dataclass(frozen=True)
class PathChoice:
    """The way that scores, and why. `max_difference` in nats of a row's mean loss; NaN where nothing was compared."""

    path: str
    tolerance: float
    max_difference: float
    reason: str


def plain_because(reason: str) -> PathChoice:
    """The plain way, chosen without a comparison."""
    return PathChoice("plain", 0.0, float("nan"), reason)


def prove(model: PreTrainedModel, rows: TokenRows, tokens_per_batch: int) -> PathChoice:
    """Compare the two ways on PROBE_ROWS rows, the longest among them: windows and positions show there."""
    probe = probe_rows(model, rows)
    if not len(probe):
        return plain_because("no row has a target to try on")
    dtype, choice = model.dtype, plain_because("")
    try:
        with torch.inference_mode():
            with _float32_weights(model):
                if not _head_is_all(model, probe):
                    return plain_because("the logits are more than the output embeddings' product: scaled or capped")
                choice = _compare(model, probe, tokens_per_batch, TOLERANCES[torch.float32])
            if choice.path == "packed" and dtype != torch.float32:
                choice = _compare(model, probe, tokens_per_batch, TOLERANCES[dtype])
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model's code makes of packed rows, the plain way is the remedy
        return plain_because(f"packed rows: {type(error).__name__}: {error}")
    return choice


def probe_rows(model: PreTrainedModel, rows: TokenRows) -> TokenRows:
    """Rows spread over the lengths, up to the longest that the model has positions for and whose logits fit."""
    longest = min(LOGITS // model.config.get_text_config().vocab_size, positions(model))
    usable_M = np.flatnonzero((rows.target_tokens_N > 0) & (rows.lengths_N <= longest))
    usable_M = usable_M[np.argsort(rows.lengths_N[usable_M], kind="stable")]
    spread = np.linspace(0, len(usable_M) - 1, min(PROBE_ROWS, len(usable_M))).round().astype(np.int64)
    return rows.take(usable_M[spread])


def positions(model: PreTrainedModel) -> int:
    """The tokens of a row that the model was made for."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize


@contextmanager
def _float32_weights(model: PreTrainedModel) -> Iterator[None]:
    """The same weights in float32; the original tensors are put back."""
    originals = [(parameter, parameter.data) for parameter in model.parameters()]
    try:
        for parameter, data in originals:
            parameter.data = data.float()
        yield
    finally:
        for parameter, data in originals:
            parameter.data = data


def _head_is_all(model: PreTrainedModel, probe: TokenRows) -> bool:
    """Whether the logits equal the output embeddings applied to the last hidden state, bit for bit."""
    ids_1L = collate(probe, [len(probe) - 1], PAD).input_ids_BL.to(model.device)
    hidden_1LH = model.base_model(input_ids=ids_1L, use_cache=False).last_hidden_state
    logits_1LV = model(input_ids=ids_1L, use_cache=False).logits
    head = model.get_output_embeddings()
    return head is not None and bool((head(hidden_1LH) == logits_1LV).all())


def _compare(model: PreTrainedModel, probe: TokenRows, tokens_per_batch: int, tolerance: float) -> PathChoice:
    """The packed way on all rows together against the plain one on each alone."""
    first_T = np.concatenate([[0], np.cumsum(probe.target_tokens_N)[:-1]])
    mean_loss = []
    for values in (
        packed_token_values(model, probe, tokens_per_batch, frozenset()),
        plain_token_values(model, probe, 1, frozenset()),
    ):
        nll_T = torch.cat([batch["nll"] for batch in values]).double().cpu().numpy()
        mean_loss.append(np.add.reduceat(nll_T, first_T) / probe.target_tokens_N)
    difference = float(np.abs(mean_loss[0] - mean_loss[1]).max())
    if difference <= tolerance:
        return PathChoice("packed", tolerance, difference, "agrees with the plain forward pass")
    return PathChoice("plain", tolerance, difference, "packed rows differ from the plain forward pass")
