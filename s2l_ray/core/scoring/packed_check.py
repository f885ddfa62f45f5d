"""Check of packed scoring against the model's own forward pass over single rows.

A model may scale or cap its logits after the output embeddings, mix tokens of neighbouring rows, or implement its own
attention. In an untrained model that changes a row's mean loss by less than rounding does, and in the trained one by
nats. So structure is checked first: logits equal to the head's output bit for bit, and hidden states of a row that do
not depend on the row packed before it. Losses are compared after that, with the weights in float32.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from s2l_ray.core.arrays import Float64, Int64
from s2l_ray.core.data.token_rows import TokenRows, plan_batches
from s2l_ray.core.model_config import rope_switch
from s2l_ray.core.onednn_linear import OneDnnLinearMode
from s2l_ray.core.scoring.packed import hidden_states, output_head, pack, target_hidden_states
from s2l_ray.core.scoring.packed_attention import packed_attention
from s2l_ray.core.scoring.probe import depends_on, first_tokens, float32_weights
from s2l_ray.core.scoring.token_statistics import statistics_from_hidden


@dataclass(frozen=True)
class AttentionChoice:
    """Form of the batches that score or train a model, and the reason.

    attention: "packed", "padded", or "single" for one row at a time. difference: of the results that were compared, in
    nats of a loss or as the relative difference of gradients; None if nothing was compared or it is not finite.
    """

    attention: str
    reason: str
    difference: float | None = None


# Nats of a row's mean loss. In bfloat16 the two computations round differently, so the float32 check decides whether
# they are the same computation.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 0.05}
# Tokens of each of the two rows whose independence is checked, and of the row whose logits are compared.
STRUCTURE_TOKENS, LOGITS_TOKENS = 256, 32


def check_packed(model: PreTrainedModel, probe: TokenRows) -> AttentionChoice:
    """Packed attention if the probe rows, all in one sequence, have the losses that each has alone."""
    try:
        with torch.no_grad():
            with float32_weights(model):
                if reason := _structural_difference(model, probe):
                    return AttentionChoice("padded", reason)
                choice = _compare_losses(model, probe, TOLERANCES[torch.float32])
            if choice.attention == "packed" and model.dtype != torch.float32:
                choice = _compare_losses(model, probe, TOLERANCES[model.dtype])
            return choice
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # model code may fail on packed rows in any way; padded scoring is the fallback
        return AttentionChoice("padded", f"packed rows: {type(error).__name__}: {error}")


def _structural_difference(model: PreTrainedModel, probe: TokenRows) -> str | None:
    """Reason for packed losses to differ from the model's own at some weights, or None."""
    before_X, row_X = (first_tokens(probe, index, STRUCTURE_TOKENS) for index in (len(probe) // 2, len(probe) - 1))
    if not _logits_are_head_output(model, row_X[:LOGITS_TOKENS]):
        return "the logits are more than the output embeddings' product: scaled or capped"
    ids_X, pair = np.concatenate([before_X, row_X]), TokenRows.from_rows([before_X.tolist(), row_X.tolist()], [[], []])
    first, second = slice(None, len(before_X)), slice(len(before_X), None)
    with packed_attention(model):
        if depends_on(model, lambda ids: _packed_hidden_states(model, pair, ids), ids_X, first, second):
            return "the hidden states of a row depend on the row packed before it"
    return None


def _logits_are_head_output(model: PreTrainedModel, row_X: Int64) -> bool:
    """Whether the logits equal the output embeddings applied to the last hidden state, bit for bit."""
    ids_1L = torch.from_numpy(row_X)[None].to(model.device)
    hidden_1LH = model.base_model(input_ids=ids_1L, use_cache=False).last_hidden_state
    logits_1LV = model(input_ids=ids_1L, use_cache=False).logits
    return bool((output_head(model)(hidden_1LH) == logits_1LV).all())


def _packed_hidden_states(model: PreTrainedModel, rows: TokenRows, ids_X: torch.Tensor) -> torch.Tensor:
    """hidden_XH of the packed rows with other token ids."""
    other = TokenRows(ids_X.cpu().numpy().astype(np.int32), rows.starts_N1, rows.spans_S2, rows.span_starts_N1)
    return hidden_states(model, pack(other, model.device), slice(0, len(rows)))


def _compare_losses(model: PreTrainedModel, probe: TokenRows, tolerance: float) -> AttentionChoice:
    """Compare the mean losses of all rows in one packed sequence with those of each row alone."""
    packed_N, single_N = _packed_mean_loss(model, probe), _single_mean_loss(model, probe)
    difference = float(np.abs(packed_N - single_N).max())
    if difference <= tolerance:
        return AttentionChoice("packed", "agrees with each row alone", difference)
    finite = difference if math.isfinite(difference) else None
    return AttentionChoice("padded", "packed rows differ from each row alone", finite)


def _packed_mean_loss(model: PreTrainedModel, rows: TokenRows) -> Float64:
    together = plan_batches(rows.lengths_N, int(rows.lengths_N.max()) * len(rows), rope_switch(model.config))
    packed, nll = pack(rows, model.device), []
    with packed_attention(model), OneDnnLinearMode(frozen_weights=True):
        for index_B in together:
            hidden_TH, target_T = target_hidden_states(model, packed, slice(index_B[0], index_B[-1] + 1))
            nll.append(statistics_from_hidden(hidden_TH, output_head(model), target_T, frozenset())["nll"])
    return _row_means(torch.cat(nll), rows)


def _single_mean_loss(model: PreTrainedModel, rows: TokenRows) -> Float64:
    """From the model's own hidden states of each row: full logits of the longest one may not fit in memory."""
    nll = []
    for index in range(len(rows)):
        row = rows.take([index])
        ids_1X = torch.from_numpy(row.ids_X.astype(np.int64))[None].to(model.device)
        target_T = torch.from_numpy(np.flatnonzero(row.target_mask_X)).to(model.device)
        hidden_XH = model.base_model(input_ids=ids_1X, use_cache=False).last_hidden_state[0]
        values = statistics_from_hidden(hidden_XH[target_T - 1], output_head(model), ids_1X[0, target_T], frozenset())
        nll.append(values["nll"])
    return _row_means(torch.cat(nll), rows)


def _row_means(nll_T: torch.Tensor, rows: TokenRows) -> Float64:
    first_N = np.cumsum(rows.target_tokens_N) - rows.target_tokens_N
    return np.add.reduceat(nll_T.double().cpu().numpy(), first_N) / rows.target_tokens_N
