"""The end of `score`: the units of a shard put side by side.

In: units as records, in the order of the checkpoints. Out: shards of trajectories, with the rows of the dataset's.
"""

import json
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.artifacts.schemas import (
    FAILED_ROWS,
    NO_TARGET_TOKENS,
    NON_FINITE,
    NOT_SCORED,
    OK,
    shard_path,
    token_arrays,
    trajectories_schema,
)
from s2l_ray.artifacts.tables import FileRecord, notes_of, read_table, write_table
from s2l_ray.errors import S2LError

Unit = dict[str, Any]
Result = dict[str, Any]


class JoinWorker:
    """The units of one shard, side by side: one trajectory a row. Of a unit that failed there is None."""

    def __init__(self, folder: str, dataset: str, statistics: tuple[str, ...]) -> None:
        self._folder = folder
        self._dataset = open_artifact(dataset)
        self._statistics = tuple(statistics)

    def __call__(self, unit: Unit) -> Result:
        rows = self._dataset.read_file(shard_path(unit["shard"]), ["example_id", "source"])
        columns = [self._read(record, rows, unit["shard"]) for record in unit["units"]]
        tokens_N = self._target_tokens(columns, unit["shard"])
        nll_NT = _side_by_side(columns, "nll_sum", len(rows))
        with np.errstate(invalid="ignore", divide="ignore"):
            loss_NT = (nll_NT / tokens_N[:, None]).astype(np.float32)
        missing_N = tokens_N == 0
        numbers_N = np.isfinite(loss_NT[:, [column is not None for column in columns]]).all(axis=1)
        failed = [
            (record["path"], *one)
            for record, column in zip(unit["units"], columns, strict=True)
            if record
            for one in _failures(column)
        ]
        failed_N = np.zeros(len(rows), bool)
        failed_N[[row for _, row, _ in failed]] = True
        scored = NOT_SCORED if None in columns else OK
        missing_number_N = np.where(failed_N, NOT_SCORED, NON_FINITE)
        status_N = np.where(missing_N, NO_TARGET_TOKENS, np.where(numbers_N, scored, missing_number_N))
        series = [_series(loss_NT, missing_N)]
        for name in self._statistics:
            series.append(_series(_side_by_side(columns, name, len(rows)), missing_N))
        table = pa.Table.from_arrays(
            [rows["example_id"], rows["source"], pa.array(tokens_N), pa.array(status_N), *series],
            schema=trajectories_schema(len(columns), self._statistics),
        )
        record = write_table(self._folder, shard_path(unit["shard"]), table)
        ok_sources = rows["source"].filter(pa.array(status_N == OK)).to_pylist()
        return {
            "file": vars(record),
            "statuses": dict(Counter(status_N.tolist())),
            "ok_by_source": dict(Counter(ok_sources)),
            "failed_rows": [
                f"{path} row {row} (example {rows['example_id'][row]}): {message}" for path, row, message in failed
            ],
        }

    def _read(self, record: dict[str, Any] | None, rows: pa.Table, shard: int) -> pa.Table | None:
        if record is None:
            return None
        column = read_table(self._folder, FileRecord(**record))
        if column["example_id"] != rows["example_id"]:
            raise S2LError(f"{self._folder}/{record['path']}: holds other rows than shard {shard}")
        return column

    def _target_tokens(self, columns: list[pa.Table | None], shard: int) -> Any:
        from s2l_ray.core.data.token_rows import TokenRows

        for column in columns:
            if column is not None:
                return column["target_tokens"].to_numpy()
        table = self._dataset.read_file(shard_path(shard), ["input_ids", "target_spans"])
        return TokenRows(*token_arrays(table)).target_tokens_N


def _failures(column: pa.Table) -> list[tuple[int, str]]:
    """The rows of a unit that could not be scored, and why."""
    noted = json.loads(notes_of(column).get(FAILED_ROWS, "{}"))
    return [(int(row), message) for row, message in noted.items()]


def _side_by_side(columns: list[pa.Table | None], name: str, rows: int) -> Any:
    """One column of every unit as value_NT, NaN where a unit is missing."""
    missing_N = np.full(rows, np.nan)
    return np.stack([missing_N if one is None else one[name].to_numpy() for one in columns], axis=1)


def _series(value_NT: Any, missing_N: Any) -> pa.FixedSizeListArray:
    """One list a row: null where the row has no targets, a null entry where a checkpoint gave no number."""
    values = pa.array(value_NT.astype(np.float32).reshape(-1), from_pandas=True)
    return pa.FixedSizeListArray.from_arrays(values, value_NT.shape[1], mask=pa.array(missing_N))
