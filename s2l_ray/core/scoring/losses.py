"""Per-example loss and the other per-example statistics of one checkpoint.

In: a causal language model and tokenised rows. Out: one number per row and statistic, in the order of the rows.
A target at position p is predicted by the logits of position p - 1. The forward pass runs in the dtype of the model's
weights, log-softmax in float32, sums over a row in float64. A row without a target has no loss: NaN, never 0.

B batch, L length, V vocabulary, T target tokens, N rows
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from s2l_ray.core.arrays import Float64
from s2l_ray.core.data.token_rows import IGNORE, TokenRows
from s2l_ray.core.scoring.packed import packed_token_values
from s2l_ray.core.scoring.packed_check import PathChoice, plain_because, prove
from s2l_ray.core.scoring.padded import plain_token_values

__all__ = ["STATISTICS", "PathChoice", "ScoreOptions", "choose_path", "per_example_loss", "score_rows"]

STATISTICS: dict[str, str] = {
    "loss": "mean over target tokens of -log p(token), kept as nll_sum and target_tokens; always recorded",
    "mean_probability": "mean over target tokens of p(token)",
    "token_accuracy": "share of target tokens that no other token exceeds in probability",
    "mean_entropy": "mean over target tokens of the entropy of the predicted distribution, in nats",
    "el2n": "mean over target tokens of ||p - onehot(token)||_2",
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PATHS = {"packed": packed_token_values, "plain": plain_token_values}


@dataclass(frozen=True)
class ScoreOptions:
    """How rows are scored. `dtype` is that of the model's weights, `tokens_per_batch` the size of a forward pass."""

    tokens_per_batch: int = 16384
    dtype: str = "float32"
    statistics: tuple[str, ...] = ("loss",)
    path: str = "packed"

    def __post_init__(self) -> None:
        unknown = [name for name in self.statistics if name not in STATISTICS]
        if unknown:
            raise ValueError(f"statistics {unknown} are not known; choose from {', '.join(STATISTICS)}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is not known; choose from {', '.join(DTYPES)}")
        if self.path not in PATHS:
            raise ValueError(f"path {self.path!r} is not known; choose from {', '.join(PATHS)}")
        if self.tokens_per_batch < 1:
            raise ValueError(f"tokens_per_batch is {self.tokens_per_batch}; it must be at least 1")

    @property
    def beside_loss(self) -> frozenset[str]:
        """The statistics asked for beside the loss."""
        return frozenset(self.statistics) - {"loss"}


def per_example_loss(logits_BLV: torch.Tensor, labels_BL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """nll_sum_B = sum over p of -log softmax(logits[p - 1])[labels[p]] where labels[p] is not -100, and the count.

    The shift happens here. Log-softmax in float32. Returns (nll_sum_B float64, tokens_B int64); a row without a
    label has nll_sum NaN.
    """
    label_BL = labels_BL[:, 1:]
    kept_BL = label_BL != IGNORE
    logprob_TV = torch.log_softmax(logits_BLV[:, :-1][kept_BL].float(), dim=-1)
    nll_BL = torch.zeros(label_BL.shape, dtype=torch.float64, device=logits_BLV.device)
    nll_BL[kept_BL] = -logprob_TV.gather(1, label_BL[kept_BL][:, None])[:, 0].double()
    tokens_B = kept_BL.sum(dim=1)
    return nll_BL.sum(dim=1).masked_fill(tokens_B == 0, torch.nan), tokens_B


def score_rows(model: PreTrainedModel, rows: TokenRows, *, options: ScoreOptions) -> dict[str, NDArray[Any]]:
    """nll_sum float64 [N], target_tokens int32 [N] and each further asked statistic float64 [N], in the rows' order.

    The same rows and options give the same bits on one device kind, with one set of libraries and threads. Rows
    without a target get NaN. Raises ValueError where the model trains or its weights are not of `options.dtype`.
    """
    _check_model(model, options)
    by_length_N = np.argsort(rows.lengths_N, kind="stable")
    scored_M = by_length_N[rows.target_tokens_N[by_length_N] > 0]
    ordered = rows.take(scored_M)
    row_T = np.repeat(scored_M, ordered.target_tokens_N)
    with torch.inference_mode():
        batches = list(PATHS[options.path](model, ordered, options.tokens_per_batch, options.beside_loss))

    def row_sums(name: str) -> Float64:
        value_T = torch.cat([batch[name] for batch in batches]).double().cpu().numpy() if batches else np.empty(0)
        return np.bincount(row_T, value_T, len(rows)).astype(np.float64)

    tokens_N = rows.target_tokens_N
    nll_sum_N = np.where(tokens_N > 0, row_sums("nll"), np.nan)
    result: dict[str, NDArray[Any]] = {"nll_sum": nll_sum_N, "target_tokens": tokens_N.astype(np.int32)}
    for name in sorted(options.beside_loss):
        # Where the loss is not a number, a mean formed by comparisons would still look like one.
        result[name] = np.where(np.isnan(nll_sum_N), np.nan, row_sums(name) / np.maximum(tokens_N, 1))
    return result


def choose_path(model: PreTrainedModel, rows: TokenRows, options: ScoreOptions) -> PathChoice:
    """Whether the packed way may score this model: tried against the plain one on a few rows (core/packed_proof.py)."""
    _check_model(model, options)
    if options.path == "plain":
        return plain_because("asked for")
    return prove(model, rows, options.tokens_per_batch)


def _check_model(model: PreTrainedModel, options: ScoreOptions) -> None:
    if model.training:
        raise ValueError("the model is in training mode, where dropout falsifies losses; call model.eval()")
    if model.dtype != DTYPES[options.dtype]:
        raise ValueError(f"the model's weights are {model.dtype}, not {options.dtype}; load it with that dtype")
