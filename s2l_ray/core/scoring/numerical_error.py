"""Numerical error of a per-example loss: its dependence on batch composition and on the dtype of the weights."""

import math
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedModel

from s2l_ray.core.arrays import Float64
from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.scoring import packed_check, padded_check
from s2l_ray.core.scoring.losses import DTYPES, ScoreOptions, score_rows


@dataclass(frozen=True)
class NumericalError:
    """Differences in nats of a row's mean loss over `rows` rows.

    padding: largest difference between padded batches and each row alone, with padded attention in float32.
    batch: largest difference between batches with the attention and dtype of the run and each row alone.
    bfloat16_mean, bfloat16_largest: difference between bfloat16 and float32 weights, with the attention of the run.
    """

    rows: int
    padding: float
    batch: float
    bfloat16_mean: float
    bfloat16_largest: float


def tolerance(attention: str, dtype: str) -> float:
    """Largest `batch` with which an attention may score; padded batches differ from single rows by rounding alone."""
    by_dtype = {"packed": packed_check.TOLERANCES, "padded": padded_check.TOLERANCES}
    return by_dtype[attention][DTYPES[dtype]] if attention in by_dtype else math.inf


def measure_numerical_error(
    exact: PreTrainedModel, rounded: PreTrainedModel, rows: TokenRows, options: ScoreOptions
) -> NumericalError:
    """Score the rows under each condition. `exact` and `rounded` are one checkpoint in float32 and bfloat16."""
    rows = rows.take(np.flatnonzero(rows.target_tokens_N))
    float32 = replace(options, dtype="float32", statistics=("loss",))
    padded, bfloat16 = replace(float32, attention="padded"), replace(float32, dtype="bfloat16")
    run_model, run = (exact, float32) if options.dtype == "float32" else (rounded, bfloat16)
    padding_N = _mean_loss(exact, rows, padded) - _mean_loss(exact, rows, replace(float32, attention="single"))
    batch_N = _mean_loss(run_model, rows, run) - _mean_loss(run_model, rows, replace(run, attention="single"))
    rounding_N = np.abs(_mean_loss(rounded, rows, bfloat16) - _mean_loss(exact, rows, float32))
    return NumericalError(
        rows=len(rows),
        padding=float(np.abs(padding_N).max(initial=0)),
        batch=float(np.abs(batch_N).max(initial=0)),
        bfloat16_mean=float(rounding_N.mean()) if len(rows) else float("nan"),
        bfloat16_largest=float(rounding_N.max(initial=0)),
    )


def _mean_loss(model: PreTrainedModel, rows: TokenRows, options: ScoreOptions) -> Float64:
    scored = score_rows(model, rows, options=options)
    return np.asarray(scored["nll_sum"] / scored["target_tokens"])
