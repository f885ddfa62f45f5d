"""A worker of `evaluate`: the losses of a shard of held-out rows.

The worker takes plain values and runs without Ray in tests. Only it imports torch.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from s2l_ray.artifacts.execution import EvaluateExecution
from s2l_ray.artifacts.facts import TargetFacts
from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.artifacts.schemas import HELD_OUT_FOLDER, HELD_OUT_LOSSES, shard_path, token_rows, tokens_path
from s2l_ray.artifacts.tables import FileRecord, write_table
from s2l_ray.config.evaluate import Evaluate
from s2l_ray.core.arrays import Float64
from s2l_ray.errors import S2LError
from s2l_ray.stages.build_models import device_of, load_checkpoint

if TYPE_CHECKING:
    from s2l_ray.core.data.token_rows import TokenRows
    from s2l_ray.core.scoring.losses import ScoreOptions

COLUMNS = ("example_id", "source", "input_ids", "target_spans")


@dataclass(frozen=True)
class EvaluationModel:
    """The target to load: URIs of the dataset and the target, and the settings.

    cache_bytes: size of the node's cache of files from an object store.
    """

    dataset: str
    target: str
    evaluate: Evaluate
    execution: EvaluateExecution
    cache_bytes: int

    def step(self) -> int:
        """The step of the target's only checkpoint."""
        return open_artifact(self.target).facts(TargetFacts).checkpoint.step


@dataclass(frozen=True)
class LossUnit:
    """One shard of held-out rows. key: what the unit's file is made from."""

    shard: int
    key: dict[str, str]

    @property
    def name(self) -> str:
        """Path of the unit's file."""
        return f"work/losses/{shard_path(self.shard)}"


class LossWorker:
    """The target model in memory. Attention is chosen on the rows of the first shard, for all shards."""

    def __init__(self, folder: str, model: EvaluationModel) -> None:
        import torch

        torch.set_num_threads(model.execution.threads)
        self._folder, self._dataset, self._cache_bytes = folder, open_artifact(model.dataset), model.cache_bytes
        self._model = load_checkpoint(
            self._dataset,
            open_artifact(model.target),
            model.step(),
            model.evaluate.dtype,
            device_of(model.execution.gpus),
            model.cache_bytes,
        )
        self._options = self._choose_options(model.evaluate, model.execution)

    def _choose_options(self, evaluate: Evaluate, execution: EvaluateExecution) -> "ScoreOptions":
        from s2l_ray.core.scoring.losses import ScoreOptions, choose_attention

        wanted = "packed" if execution.attention == "auto" else execution.attention
        options = ScoreOptions(execution.tokens_per_batch, evaluate.dtype, attention=wanted)
        return replace(options, attention=choose_attention(self._model, self._read(0)[1], options).attention)

    def __call__(self, unit: LossUnit) -> FileRecord:
        table, rows = self._read(unit.shard)
        loss_N = self._losses(unit, rows)
        tokens = pa.array(rows.target_tokens_N.astype(np.int32))
        columns = [table["example_id"], table["source"], tokens, pa.array(loss_N, from_pandas=True)]
        return write_table(
            self._folder, unit.name, pa.Table.from_arrays(columns, schema=HELD_OUT_LOSSES), dict(unit.key)
        )

    def _losses(self, unit: LossUnit, rows: "TokenRows") -> Float64:
        """Mean loss of each row's target tokens, NaN without any. Raises `S2LError` for one that is not finite."""
        from s2l_ray.core.scoring.losses import score_rows

        scores = score_rows(self._model, rows, options=self._options)
        tokens_N = scores["target_tokens"]
        loss_N = np.asarray(scores["nll_sum"] / np.maximum(tokens_N, 1), np.float64)
        missing = int((~np.isfinite(loss_N) & (tokens_N > 0)).sum())
        if missing:
            raise S2LError(
                f"evaluate: {missing} held-out rows of shard {unit.shard} have no finite loss. If the target diverged, "
                "train it with a smaller target.learning_rate"
            )
        return loss_N

    def _read(self, shard: int) -> "tuple[pa.Table, TokenRows]":
        table = self._dataset.read_file(HELD_OUT_FOLDER + tokens_path(shard), COLUMNS, self._cache_bytes)
        return table, token_rows(table)
