"""The check before scoring: the attention that scores, and the numerical error of a loss. One task a run.

Rows come from all parts of the dataset and include the longest one. The first and the last checkpoint are checked
before any unit is scored, since an untrained model hides most faults, and because all units use one attention.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from s2l_ray.artifacts.execution import ScoreExecution
from s2l_ray.artifacts.facts import DatasetFacts
from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.artifacts.schemas import token_rows, tokens_path
from s2l_ray.config.sections import Score
from s2l_ray.core.arrays import Int64
from s2l_ray.errors import S2LError
from s2l_ray.stages.build_models import device_of, load_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from s2l_ray.core.data.token_rows import TokenRows
    from s2l_ray.core.scoring.losses import ScoreOptions
    from s2l_ray.core.scoring.numerical_error import NumericalError
    from s2l_ray.core.scoring.packed_check import AttentionChoice

CHECKED_SHARDS, CHECKED_ROWS = 8, 256

Numerics = dict[str, float | int | str | None]


@dataclass(frozen=True)
class ScoringCheck:
    """attention: "packed", "padded" or "single". numerics: NumericalError and AttentionChoice as JSON."""

    attention: str
    numerics: Numerics


def check_scoring(
    steps: tuple[int, ...], dataset: str, checkpoints: str, score: Score, execution: ScoreExecution, cache_bytes: int
) -> ScoringCheck:
    """Choose the attention that suits every one of the steps, and measure the error of a loss at the last one.

    Raises `S2LError` for a model that is not causal or that rows of the dataset do not fit.
    """
    import torch

    from s2l_ray.core.scoring.losses import ATTENTIONS, ScoreOptions, choose_attention

    torch.set_num_threads(execution.threads)
    data, stored, device = open_artifact(dataset), open_artifact(checkpoints), device_of(execution.gpus)
    rows = read_checked_rows(data, cache_bytes)
    wanted = "packed" if execution.attention == "auto" else execution.attention
    options = ScoreOptions(execution.tokens_per_batch, score.dtype, attention=wanted)
    choices = []
    for step in steps:
        model = load_checkpoint(data, stored, step, score.dtype, device, cache_bytes)
        try:
            choices.append(choose_attention(model, rows, options))
        except ValueError as error:
            raise S2LError(f"score: {error}") from error
    choice = max(choices, key=lambda one: list(ATTENTIONS).index(one.attention))
    other = "bfloat16" if score.dtype == "float32" else "float32"
    models = {score.dtype: model, other: load_checkpoint(data, stored, steps[-1], other, device, cache_bytes)}
    choice, measured = _measure(models["float32"], models["bfloat16"], rows, options, choice)
    hardware = torch.cuda.get_device_name() if device == "cuda" else torch.backends.cpu.get_cpu_capability()
    values = dataclasses.asdict(measured) | dataclasses.asdict(choice)
    values |= {"step": steps[-1], "device": device, "hardware": hardware}
    numerics = {name: None if value != value or value in (np.inf, -np.inf) else value for name, value in values.items()}
    return ScoringCheck(choice.attention, numerics)


def _measure(
    exact: "PreTrainedModel",
    rounded: "PreTrainedModel",
    rows: "TokenRows",
    options: "ScoreOptions",
    choice: "AttentionChoice",
) -> "tuple[AttentionChoice, NumericalError]":
    """The error with the chosen attention, or with the next one where rows depend on their batch."""
    from s2l_ray.core.scoring.losses import ATTENTIONS
    from s2l_ray.core.scoring.numerical_error import measure_numerical_error, tolerance
    from s2l_ray.core.scoring.packed_check import AttentionChoice

    names = list(ATTENTIONS)
    for attention in names[names.index(choice.attention) :]:
        error = measure_numerical_error(exact, rounded, rows, dataclasses.replace(options, attention=attention))
        if not error.batch > tolerance(attention, options.dtype):  # a NaN is a loss that is not finite, in any batch
            break
        reason = f"at the last checkpoint {attention} rows differ from each row alone"
        choice = AttentionChoice(attention, reason, error.batch)
    return dataclasses.replace(choice, attention=attention), error


def read_checked_rows(dataset: Artifact, cache_bytes: int) -> "TokenRows":
    """At most CHECKED_ROWS rows with a target, spread over CHECKED_SHARDS shards, and the longest row of each shard.

    One of the shards has the longest row of the dataset.
    """
    from s2l_ray.core.data.token_rows import TokenRows

    shards, longest = len(dataset.shards()), dataset.facts(DatasetFacts).longest_shard
    chosen = sorted({*_spread(shards, CHECKED_SHARDS).tolist(), longest})
    parts = [TokenRows.from_rows([], [])]
    for shard in chosen:
        table = dataset.read_file(tokens_path(shard), ["input_ids", "target_spans"], cache_bytes)
        rows = token_rows(table)
        usable_M = np.flatnonzero(rows.target_tokens_N)
        if len(usable_M):
            some_M = usable_M[_spread(len(usable_M), CHECKED_ROWS // len(chosen))]
            parts.append(rows.take(np.union1d(some_M, usable_M[rows.lengths_N[usable_M].argmax()])))
    return TokenRows.concatenate(parts)


def _spread(count: int, most: int) -> Int64:
    """At most `most` of `count` positions, evenly spread, the first and the last among them."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(np.int64)
