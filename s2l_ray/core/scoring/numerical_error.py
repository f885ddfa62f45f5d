"""How far a loss depends on the company a row is scored in, and on the precision: measured, for the manifest.

In: one checkpoint in float32 and in bfloat16, and a few hundred rows of the pool. Out: differences of mean loss.
"""

from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedModel

from s2l_ray.core.arrays import Float64
from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.scoring.losses import ScoreOptions, score_rows


@dataclass(frozen=True)
class Numerics:
    """Differences in nats of a row's mean loss over `rows` rows.

    `padding`: the largest between padded batches and each row alone, by the plain forward pass in float32.
    `batch`: the largest between batches and each row alone, by the path and in the dtype that score the run.
    `bfloat16_mean`, `bfloat16_largest`: of that path in bfloat16 from float32.
    """

    rows: int
    padding: float
    batch: float
    bfloat16_mean: float
    bfloat16_largest: float


def measure_numerics(
    exact: PreTrainedModel, rounded: PreTrainedModel, rows: TokenRows, options: ScoreOptions
) -> Numerics:
    """Score the rows in each way. `exact` and `rounded` are one checkpoint in float32 and bfloat16."""
    rows = rows.take(np.flatnonzero(rows.target_tokens_N))
    precise = replace(options, dtype="float32", statistics=("loss",))
    plain, coarse = replace(precise, path="plain"), replace(precise, dtype="bfloat16")
    of_run = (exact, precise) if options.dtype == "float32" else (rounded, coarse)
    padding_N = _loss(exact, rows, plain) - _loss(exact, rows, replace(plain, tokens_per_batch=1))
    batch_N = _loss(of_run[0], rows, of_run[1]) - _loss(of_run[0], rows, replace(of_run[1], tokens_per_batch=1))
    rounding_N = np.abs(_loss(rounded, rows, coarse) - _loss(exact, rows, precise))
    return Numerics(
        rows=len(rows),
        padding=float(np.abs(padding_N).max(initial=0)),
        batch=float(np.abs(batch_N).max(initial=0)),
        bfloat16_mean=float(rounding_N.mean()) if len(rows) else float("nan"),
        bfloat16_largest=float(rounding_N.max(initial=0)),
    )


def _loss(model: PreTrainedModel, rows: TokenRows, options: ScoreOptions) -> Float64:
    scored = score_rows(model, rows, options=options)
    return np.asarray(scored["nll_sum"] / scored["target_tokens"])
