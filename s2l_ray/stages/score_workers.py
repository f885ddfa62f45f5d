"""Workers of `score`: one checkpoint on one shard, and the measurement of numerical error.

Workers take plain values and run without Ray in tests and benchmarks. Torch and transformers are imported inside them,
because the driver imports these classes.
"""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from s2l_ray.artifacts.execution import ScoreExecution
from s2l_ray.artifacts.facts import CheckpointsFacts, DatasetFacts
from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.artifacts.node_cache import LIMIT_BYTES
from s2l_ray.artifacts.schemas import losses_path, losses_schema, step_name, token_rows, tokens_path
from s2l_ray.artifacts.tables import FileRecord, write_table
from s2l_ray.config.sections import Score
from s2l_ray.core.arrays import Float64, Int32
from s2l_ray.errors import S2LError
from s2l_ray.storage import is_local

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from s2l_ray.core.data.token_rows import TokenRows
    from s2l_ray.core.scoring.packed_check import AttentionChoice

NUMERICS_ROWS = 256

Scores = dict[str, Float64 | Int32]


@dataclass(frozen=True)
class ScoreUnit:
    """One checkpoint on one shard. key: what the unit's file is made from."""

    step: int
    shard: int
    key: dict[str, str]

    @property
    def name(self) -> str:
        """Path of the unit's file."""
        return losses_path(self.step, self.shard)


@dataclass(frozen=True)
class ScoredUnit:
    """The unit's file, the tokens it covers, and the attention path with the difference its check found."""

    file: FileRecord
    tokens: int
    attention: str
    max_difference: float | None


class ScoreWorker:
    """One model in memory, whose weights are swapped from checkpoint to checkpoint."""

    def __init__(
        self,
        folder: str,
        dataset: str,
        checkpoints: str,
        score: Score,
        execution: ScoreExecution,
        cache_bytes: int = LIMIT_BYTES,
    ) -> None:
        import torch

        from s2l_ray.core.scoring.losses import ScoreOptions

        torch.set_num_threads(execution.threads)
        self._folder = folder
        self._dataset = open_artifact(dataset)
        self._checkpoints = open_artifact(checkpoints)
        self._cache_bytes = cache_bytes
        self._score_config = score
        self._device = device_of(execution)
        self._options = ScoreOptions(execution.tokens_per_batch, score.dtype, tuple(score.statistics))
        self._model: PreTrainedModel | None = None
        self._step: int | None = None
        saved, wanted = self._checkpoints.facts(CheckpointsFacts).steps, score.checkpoints
        self._steps = sorted(saved if wanted == "all" else wanted)
        self._prefetch_thread = ThreadPoolExecutor(max_workers=1)
        self._choice = self._choose_attention(execution.attention)

    def __call__(self, unit: ScoreUnit) -> ScoredUnit:
        from s2l_ray.core.scoring.losses import score_rows

        model = self._load(unit.step)
        ids, rows = self._read(unit.shard)
        scores = score_rows(model, rows, options=self._options)
        nll_sum_N = self._checked(unit, ids, scores)
        names = other_statistics(self._score_config)
        columns = [ids, pa.array(nll_sum_N, from_pandas=True), pa.array(scores["target_tokens"])]
        columns += [pa.array(scores[name].astype(np.float32), from_pandas=True) for name in names]
        table = pa.Table.from_arrays(columns, schema=losses_schema(names))
        file = write_table(self._folder, unit.name, table, unit.key)
        return ScoredUnit(file, len(rows.ids_X), self._choice.attention, self._choice.difference)

    def _choose_attention(self, wanted: str) -> "AttentionChoice":
        """Check packed attention on the first checkpoint and the first shard; every worker finds the same."""
        from s2l_ray.core.scoring.losses import choose_attention
        from s2l_ray.core.scoring.packed_check import AttentionChoice

        if wanted == "padded":
            choice = AttentionChoice("padded", "requested")
        else:
            choice = choose_attention(self._load(self._steps[0]), self._read(0)[1], self._options)
        self._options = dataclasses.replace(self._options, attention=choice.attention)
        return choice

    def _load(self, step: int) -> "PreTrainedModel":
        import torch

        from s2l_ray.core.causal_lm import load_model, swap_weights

        if self._model is not None and step == self._step:
            return self._model
        with self._checkpoints.hold(f"{step_name(step)}/", self._cache_bytes) as local:
            folder = local / step_name(step)
            if self._model is None:
                self._model = load_model(folder, dtype=getattr(torch, self._options.dtype), device=self._device)
                self._check_fits(self._model)
            else:
                swap_weights(self._model, folder)
        self._step = step
        self._prefetch_after(step)
        return self._model

    def _check_fits(self, model: "PreTrainedModel") -> None:
        """Raise `S2LError` for a model without an embedding or a position that rows of the dataset need."""
        from s2l_ray.core.causal_lm import check_model_fits

        facts = self._dataset.facts(DatasetFacts)
        try:
            check_model_fits(model, facts.vocab_size, facts.longest)
        except ValueError as error:
            raise S2LError(f"score: {error}") from error

    def _prefetch_after(self, step: int) -> None:
        """Download the next checkpoint to the node's cache; a failure shows when it is loaded."""
        later = [other for other in self._steps if other > step]
        if later and not is_local(self._checkpoints.uri):
            self._prefetch_thread.submit(self._prefetch, later[0])

    def _prefetch(self, step: int) -> None:
        with self._checkpoints.hold(f"{step_name(step)}/", self._cache_bytes):
            pass

    def _read(self, shard: int) -> "tuple[pa.Array, TokenRows]":
        table = _read_shard(self._dataset, shard, self._cache_bytes)
        return table["example_id"].combine_chunks(), token_rows(table)

    def _checked(self, unit: ScoreUnit, ids: pa.Array, scores: Scores) -> Float64:
        """nll_sum_N with NaN for missing values. Raises `S2LError` for a row with targets but without a finite loss."""
        nll_sum_N = np.asarray(scores["nll_sum"], np.float64)
        missing_N = ~np.isfinite(nll_sum_N) & (scores["target_tokens"] > 0)
        if missing_N.any() and self._score_config.non_finite == "fail":
            shown = ", ".join(ids.filter(pa.array(missing_N)).to_pylist()[:5])
            raise S2LError(
                f"score: {int(missing_N.sum())} rows of shard {unit.shard} have no finite loss at step {unit.step} "
                f"(examples {shown}). If the proxy diverged, train it with a smaller proxy.learning_rate; to keep such "
                "losses as missing, set score.non_finite: null"
            )
        return np.where(np.isfinite(nll_sum_N), nll_sum_N, np.nan)


def other_statistics(score: Score) -> tuple[str, ...]:
    """The statistics besides the loss, in the order of their columns."""
    return tuple(name for name in score.statistics if name != "loss")


def device_of(execution: ScoreExecution) -> str:
    import torch

    return "cuda" if execution.gpus and torch.cuda.is_available() else "cpu"


def measure_numerics(
    step: int, dataset: str, checkpoints: str, score: Score, execution: ScoreExecution, cache_bytes: int
) -> dict[str, float | int | str | None]:
    """NumericalError and AttentionChoice as JSON, on rows spread over the first shard; None for non-finite values."""
    import torch

    from s2l_ray.core.causal_lm import load_model
    from s2l_ray.core.model_config import max_positions
    from s2l_ray.core.scoring.losses import ScoreOptions, choose_attention
    from s2l_ray.core.scoring.numerical_error import measure_numerical_error

    torch.set_num_threads(execution.threads)
    device = device_of(execution)
    rows = token_rows(_read_shard(open_artifact(dataset), 0, cache_bytes))
    with open_artifact(checkpoints).hold(f"{step_name(step)}/", cache_bytes) as local:
        folder = local / step_name(step)
        exact, rounded = (load_model(folder, dtype=dtype, device=device) for dtype in (torch.float32, torch.bfloat16))
    usable_M = np.flatnonzero((rows.target_tokens_N > 0) & (rows.lengths_N <= max_positions(exact.config)))
    spread = np.linspace(0, len(usable_M) - 1, min(NUMERICS_ROWS, len(usable_M))).round().astype(np.int64)
    attention = "padded" if execution.attention == "padded" else "packed"
    options = ScoreOptions(execution.tokens_per_batch, score.dtype, attention=attention)
    choice = choose_attention(exact if score.dtype == "float32" else rounded, rows, options)
    options = dataclasses.replace(options, attention=choice.attention)
    error = measure_numerical_error(exact, rounded, rows.take(usable_M[spread]), options)
    hardware = torch.cuda.get_device_name() if device == "cuda" else torch.backends.cpu.get_cpu_capability()
    values = dataclasses.asdict(error) | dataclasses.asdict(choice)
    values |= {"step": step, "device": device, "hardware": hardware}
    return {name: None if value != value or value in (np.inf, -np.inf) else value for name, value in values.items()}


def _read_shard(dataset: Artifact, shard: int, cache_bytes: int) -> pa.Table:
    return dataset.read_file(tokens_path(shard), ["example_id", "input_ids", "target_spans"], cache_bytes)
