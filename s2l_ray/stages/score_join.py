"""The end of `score`: the units of a shard joined into trajectories, in the row order of the dataset's shard."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from s2l_ray.artifacts import schemas
from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.artifacts.tables import FileRecord, notes_of, read_table
from s2l_ray.artifacts.trajectories import TrajectoryShard, write_trajectory_shard
from s2l_ray.core.arrays import Float32, Float64, Integers, Objects
from s2l_ray.errors import S2LError

Column: TypeAlias = pa.Table | None


@dataclass(frozen=True)
class JoinUnit:
    """The files of one shard in order of the checkpoints; None for a skipped unit."""

    shard: int
    files: list[FileRecord | None]

    @property
    def name(self) -> str:
        return f"shard {self.shard}"


class JoinWorker:
    """Join the files of one shard: one trajectory a row. A skipped unit leaves its checkpoint empty."""

    def __init__(self, folder: str, dataset: str, statistics: tuple[str, ...]) -> None:
        self._folder = folder
        self._dataset = open_artifact(dataset)
        self._statistics = statistics

    def __call__(self, unit: JoinUnit) -> TrajectoryShard:
        rows = self._dataset.read_file(schemas.tokens_path(unit.shard), ["example_id", "source"])
        columns = [self._read(record, rows, unit.shard) for record in unit.files]
        tokens_N = self._target_tokens(columns, unit.shard)
        nll_NT = _stack(columns, "nll_sum", len(rows))
        with np.errstate(invalid="ignore", divide="ignore"):
            loss_NT = (nll_NT / tokens_N[:, None]).astype(np.float32)
        status_N = _statuses(loss_NT, tokens_N, columns)
        series = {"losses": loss_NT} | {name: _stack(columns, name, len(rows)) for name in self._statistics}
        shard = write_trajectory_shard(self._folder, unit.shard, rows, pa.array(tokens_N), status_N, series)
        return replace(shard, attention=dict(Counter(notes_of(one)["attention"] for one in columns if one is not None)))

    def _read(self, record: FileRecord | None, rows: pa.Table, shard: int) -> Column:
        if record is None:
            return None
        column = read_table(self._folder, record)
        if column["example_id"] != rows["example_id"]:
            raise S2LError(f"{self._folder}/{record.path}: holds other rows than shard {shard}")
        return column

    def _target_tokens(self, columns: list[Column], shard: int) -> Integers:
        for column in columns:
            if column is not None:
                tokens_N: Integers = column["target_tokens"].to_numpy()
                return tokens_N
        table = self._dataset.read_file(schemas.tokens_path(shard), ["input_ids", "target_spans"])
        return schemas.token_rows(table).target_tokens_N


def _statuses(loss_NT: Float32, tokens_N: Integers, columns: list[Column]) -> Objects:
    """Status of each row: not_scored where a unit was skipped, non_finite where a loss is missing."""
    scored_T = [column is not None for column in columns]
    finite_N = np.isfinite(loss_NT[:, scored_T]).all(axis=1)
    if_finite = schemas.OK if all(scored_T) else schemas.NOT_SCORED
    return np.where(tokens_N == 0, schemas.NO_TARGET_TOKENS, np.where(finite_N, if_finite, schemas.NON_FINITE))


def _stack(columns: list[Column], name: str, rows: int) -> Float64:
    """One column of every unit as value_NT, NaN where a unit was skipped."""
    missing_N = np.full(rows, np.nan)
    return np.stack([missing_N if one is None else one[name].to_numpy() for one in columns], axis=1)
