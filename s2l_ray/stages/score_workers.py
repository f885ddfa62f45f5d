"""Workers of `score`: one checkpoint on one shard.

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
from s2l_ray.artifacts.facts import CheckpointsFacts
from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.artifacts.node_cache import LIMIT_BYTES
from s2l_ray.artifacts.schemas import losses_path, losses_schema, step_name, token_rows, tokens_path
from s2l_ray.artifacts.tables import FileRecord, write_table
from s2l_ray.config.sections import Score
from s2l_ray.core.arrays import Float64, Int32
from s2l_ray.errors import S2LError
from s2l_ray.stages.build_models import device_of, load_checkpoint
from s2l_ray.storage import is_local

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from s2l_ray.core.data.token_rows import TokenRows

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
    """The unit's file and the tokens it covers."""

    file: FileRecord
    tokens: int


class ScoreWorker:
    """One model in memory, whose weights are swapped from checkpoint to checkpoint."""

    def __init__(
        self,
        folder: str,
        attention: str,
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
        self._device = device_of(execution.gpus)
        self._options = ScoreOptions(execution.tokens_per_batch, score.dtype, tuple(score.statistics), attention)
        self._model: PreTrainedModel | None = None
        self._step: int | None = None
        saved, wanted = self._checkpoints.facts(CheckpointsFacts).steps, score.checkpoints
        self._steps = sorted(saved if wanted == "all" else wanted)
        self._prefetch_thread = ThreadPoolExecutor(max_workers=1)

    def __call__(self, unit: ScoreUnit) -> ScoredUnit:
        model = self._load(unit.step)
        ids, rows = self._read(unit.shard)
        scores, attention = self._score(model, rows)
        nll_sum_N = self._checked(unit, ids, scores)
        names = other_statistics(self._score_config)
        columns = [ids, pa.array(nll_sum_N, from_pandas=True), pa.array(scores["target_tokens"])]
        columns += [pa.array(scores[name].astype(np.float32), from_pandas=True) for name in names]
        table = pa.Table.from_arrays(columns, schema=losses_schema(names))
        file = write_table(self._folder, unit.name, table, unit.key, {"attention": attention})
        return ScoredUnit(file, len(rows.ids_X))

    def _score(self, model: "PreTrainedModel", rows: "TokenRows") -> tuple[Scores, str]:
        """Statistics of the rows, and the attention that computed them.

        A kernel may lack what some shard needs, as for rows longer than an attention window.
        """
        from s2l_ray.core.scoring.losses import choose_attention, score_rows
        from s2l_ray.core.scoring.packed_attention import PackedUnsupported

        options = self._options
        try:
            return score_rows(model, rows, options=options), options.attention
        except PackedUnsupported:
            options = dataclasses.replace(options, attention="padded")
        options = dataclasses.replace(options, attention=choose_attention(model, rows, options).attention)
        return score_rows(model, rows, options=options), options.attention

    def _load(self, step: int) -> "PreTrainedModel":
        from s2l_ray.core.causal_lm import swap_weights

        if self._model is not None and step == self._step:
            return self._model
        if self._model is None:
            self._model = load_checkpoint(
                self._dataset, self._checkpoints, step, self._options.dtype, self._device, self._cache_bytes
            )
        else:
            with self._checkpoints.hold(f"{step_name(step)}/", self._cache_bytes) as local:
                swap_weights(self._model, local / step_name(step))
        self._step = step
        self._prefetch_after(step)
        return self._model

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


def _read_shard(dataset: Artifact, shard: int, cache_bytes: int) -> pa.Table:
    return dataset.read_file(tokens_path(shard), ["example_id", "input_ids", "target_spans"], cache_bytes)
