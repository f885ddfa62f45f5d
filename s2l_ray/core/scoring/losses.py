"""Per-example loss and other per-example statistics of one checkpoint.

The logits at position p - 1 predict the target at position p. The forward pass runs in the dtype of the model's
weights, log-softmax in float32, sums over a row in float64. The loss of a row without a target is NaN, never 0.

B batch, L length, V vocabulary, T target tokens, N rows, M rows with a target
"""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from s2l_ray.core.arrays import Float64, Int32, Int64
from s2l_ray.core.data.token_rows import IGNORE, TokenRows
from s2l_ray.core.scoring.causality import check_causal
from s2l_ray.core.scoring.packed import packed_token_statistics
from s2l_ray.core.scoring.packed_check import AttentionChoice, check_packed
from s2l_ray.core.scoring.padded import padded_token_statistics, single_token_statistics
from s2l_ray.core.scoring.padded_check import check_padded
from s2l_ray.core.scoring.probe import float32_weights, probe_rows

STATISTICS: dict[str, str] = {
    "loss": "mean over target tokens of -log p(token), kept as nll_sum and target_tokens; always recorded",
    "mean_probability": "mean over target tokens of p(token)",
    "token_accuracy": "share of target tokens that no other token exceeds in probability",
    "mean_entropy": "mean over target tokens of the entropy of the predicted distribution, in nats",
    "el2n": "mean over target tokens of ||p - onehot(token)||_2",
    "grand": "Frobenius norm of the gradient of the row's mean loss with respect to the output head's weight",
    "top_entropy": "sum of the entropies of the row's most uncertain target tokens: 0.5 % of them, at least one",
}
# Statistics that are computed from the values of another one at each target token.
TOKEN_STATISTICS = {"top_entropy": "mean_entropy"}
TOKENS_PER_UNCERTAIN = 200
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ATTENTIONS = {"packed": packed_token_statistics, "padded": padded_token_statistics, "single": single_token_statistics}


@dataclass(frozen=True)
class ScoreOptions:
    """Options of scoring. dtype: of the model's weights. tokens_per_batch: size of a forward pass."""

    tokens_per_batch: int = 16384
    dtype: str = "float32"
    statistics: tuple[str, ...] = ("loss",)
    attention: str = "packed"

    def __post_init__(self) -> None:
        unknown = [name for name in self.statistics if name not in STATISTICS]
        if unknown:
            raise ValueError(f"unknown statistics {unknown}; choose from {', '.join(STATISTICS)}")
        if self.dtype not in DTYPES:
            raise ValueError(f"unknown dtype {self.dtype!r}; choose from {', '.join(DTYPES)}")
        if self.attention not in ATTENTIONS:
            raise ValueError(f"unknown attention {self.attention!r}; choose from {', '.join(ATTENTIONS)}")
        if self.tokens_per_batch < 1:
            raise ValueError(f"tokens_per_batch is {self.tokens_per_batch}; it must be at least 1")

    @property
    def extra_statistics(self) -> frozenset[str]:
        return frozenset(self.statistics) - {"loss"}

    @property
    def token_statistics(self) -> frozenset[str]:
        """Statistics to compute at each target token."""
        return frozenset(TOKEN_STATISTICS.get(name, name) for name in self.extra_statistics)


def per_example_loss(logits_BLV: torch.Tensor, labels_BL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """nll_sum_B = sum over p of -log softmax(logits[p - 1])[labels[p]] where labels[p] is not -100, and the count.

    Labels are aligned with the input ids; the shift happens here. Log-softmax in float32. Returns (nll_sum_B float64,
    tokens_B int64); nll_sum is NaN for a row without a label.
    """
    label_BL = labels_BL[:, 1:]
    is_target_BL = label_BL != IGNORE
    logprob_TV = torch.log_softmax(logits_BLV[:, :-1][is_target_BL].float(), dim=-1)
    nll_BL = torch.zeros(label_BL.shape, dtype=torch.float64, device=logits_BLV.device)
    nll_BL[is_target_BL] = -logprob_TV.gather(1, label_BL[is_target_BL][:, None])[:, 0].double()
    tokens_B = is_target_BL.sum(dim=1)
    return nll_BL.sum(dim=1).masked_fill(tokens_B == 0, torch.nan), tokens_B


def score_rows(model: PreTrainedModel, rows: TokenRows, *, options: ScoreOptions) -> dict[str, Float64 | Int32]:
    """nll_sum float64 [N], target_tokens int32 [N] and each other requested statistic float64 [N], in row order.

    Deterministic for one device type, set of libraries and number of threads. Rows without a target get NaN. Raises
    ValueError if the model is in training mode or its weights are not of `options.dtype`.
    """
    _check_model(model, options)
    by_length_N = np.argsort(rows.lengths_N, kind="stable")
    scored_M = by_length_N[rows.target_tokens_N[by_length_N] > 0]
    ordered = rows.take(scored_M)
    row_T = np.repeat(scored_M, ordered.target_tokens_N)
    token_statistics = ATTENTIONS[options.attention]
    with torch.inference_mode():
        batches = list(token_statistics(model, ordered, options.tokens_per_batch, options.token_statistics))

    def at_tokens(name: str) -> Float64:
        return torch.cat([batch[name] for batch in batches]).double().cpu().numpy() if batches else np.empty(0)

    tokens_N = rows.target_tokens_N
    nll_sum_N = np.where(tokens_N > 0, np.bincount(row_T, at_tokens("nll"), len(rows)), np.nan)
    result: dict[str, Float64 | Int32] = {"nll_sum": nll_sum_N, "target_tokens": tokens_N.astype(np.int32)}
    for name in sorted(options.extra_statistics):
        if name == "top_entropy":
            value_N = top_entropy(at_tokens("mean_entropy"), row_T, tokens_N)
        else:
            value_N = np.bincount(row_T, at_tokens(name), len(rows)) / np.maximum(tokens_N, 1)
        # token_accuracy is made by comparisons, which turn a NaN into a number.
        result[name] = np.where(np.isnan(nll_sum_N), np.nan, value_N)
    return result


def top_entropy(entropy_T: Float64, row_T: Int64, tokens_N: Int64) -> Float64:
    """Sum of the largest entropies of each row, of one target token in TOKENS_PER_UNCERTAIN and at least one."""
    order_T = np.lexsort((-entropy_T, row_T))
    first_T = np.repeat(np.cumsum(tokens_N) - tokens_N, tokens_N)
    rank_T = np.arange(len(order_T)) - first_T
    row_T = row_T[order_T]
    counted_T = rank_T < np.maximum(1, tokens_N // TOKENS_PER_UNCERTAIN)[row_T]
    return np.bincount(row_T[counted_T], entropy_T[order_T[counted_T]], len(tokens_N)).astype(np.float64)


def choose_attention(model: PreTrainedModel, rows: TokenRows, options: ScoreOptions) -> AttentionChoice:
    """The fastest attention that passes its checks on a few rows: packed, padded, or each row alone.

    options.attention: "padded" leaves out the check of packing. Raises ValueError if the model is not causal.
    """
    _check_model(model, options)
    probe = probe_rows(model, rows)
    if not len(probe):
        return AttentionChoice("padded", "no row has a target to compare")
    with float32_weights(model):
        check_causal(model, probe)
    if options.attention != "packed":
        return check_padded(model, probe, "requested")
    choice = check_packed(model, probe)
    return choice if choice.attention == "packed" else check_padded(model, probe, choice.reason)


def _check_model(model: PreTrainedModel, options: ScoreOptions) -> None:
    if model.training:
        raise ValueError("the model is in training mode, where dropout changes losses; call model.eval()")
    if model.dtype != DTYPES[options.dtype]:
        raise ValueError(f"the model's weights are {model.dtype}, not {options.dtype}; load it with that dtype")
