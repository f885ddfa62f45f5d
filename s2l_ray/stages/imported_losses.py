"""The work of losses imports: number the rows, match losses to the rows of a dataset, write shards of trajectories.

N rows of a shard, T checkpoints, F rows of the file of losses.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.artifacts import schemas
from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.artifacts.tables import FileRecord, write_table
from s2l_ray.artifacts.trajectories import TrajectoryShard, write_trajectory_shard
from s2l_ray.core.arrays import Int64
from s2l_ray.errors import S2LError
from s2l_ray.runtime.worker_process import report_progress
from s2l_ray.sources.losses import ROW, LossesSpec, LossTable, read_losses

EXAMPLE_ID = "example_id"


@dataclass(frozen=True)
class ImportedLosses:
    """All shards. unused_rows: of the losses, without a row of the dataset. negative: losses below 0."""

    steps: tuple[int, ...]
    shards: tuple[TrajectoryShard, ...]
    unused_rows: int
    negative: int


def write_row_numbers(folder: str, spec: LossesSpec, source: str, shard_size: int) -> tuple[list[FileRecord], int]:
    """Shards of a dataset whose example n is row n of the losses: id, and `raw` as {"row": n} with its name.

    Returns their files, and the target tokens of all rows, 0 if unknown.
    """
    losses = read_losses(spec)
    files = []
    for shard, start in enumerate(range(0, len(losses), shard_size)):
        numbers = range(start, min(start + shard_size, len(losses)))
        table = _row_number_table(spec, source, numbers, losses.name_N)
        files.append(write_table(folder, schemas.tokens_path(shard), table.select(schemas.TOKENS.names)))
        files.append(write_table(folder, schemas.text_path(shard), table.select(schemas.TEXT.names)))
        report_progress(numbers.stop, len(losses), "rows")
    if not files:
        raise S2LError(f"{spec.uri}: holds no rows")
    return files, int(losses.tokens_N.sum()) if losses.tokens_N is not None else 0


def _row_number_table(spec: LossesSpec, source: str, numbers: range, name_F: pa.Array | None) -> pa.Table:
    """The rows of one shard, in all columns of a dataset."""
    rows: list[dict[str, object]] = [{ROW: number} for number in numbers]
    if name_F is not None:
        names = name_F.slice(numbers.start, len(numbers)).to_pylist()
        rows = [{**row, spec.key: name} for row, name in zip(rows, names, strict=True)]
    count = len(numbers)
    columns = {
        "example_id": [row_id(number) for number in numbers],
        "source": pa.repeat(source, count),
        "status": pa.repeat(schemas.OK, count),
        "input_ids": [[]] * count,
        "target_spans": [[]] * count,
        "raw": [json.dumps(row) for row in rows],
        "file": pa.repeat(spec.file_name, count),
        "line": pa.array(range(numbers.start + 1, numbers.stop + 1)),
    }
    nulls = {field.name: pa.nulls(count, field.type) for field in schemas.DATASET}
    return pa.table(nulls | columns, schema=schemas.DATASET)


def row_id(number: int) -> str:
    """The example id of a row number: 32 digits, so that ids sort like numbers."""
    return f"{number:032d}"


def import_losses(folder: str, dataset: str, spec: LossesSpec, non_finite: str) -> ImportedLosses:
    """Write one shard of trajectories for each shard of the dataset. Runs on one node.

    Raises `S2LError` where rows cannot be matched, and for a loss that is not finite if `non_finite` is "fail".
    """
    losses, opened = read_losses(spec), open_artifact(dataset)
    used_F = np.zeros(len(losses), bool)
    shards = []
    total = len(opened.shards())
    for shard, index_N in enumerate(_matches(opened, spec, losses)):
        report_progress(shard, total, "shards")
        used_F[index_N[index_N >= 0]] = True
        shards.append(_write_shard(folder, shard, opened, losses, index_N, spec, non_finite))
    if not used_F.any():
        raise S2LError(
            f"{spec.uri}: no row matches the dataset by score.losses_from.key: {spec.key}; set it to {EXAMPLE_ID}, to "
            "a field of the rows that is also a column of the losses, or to row for rows in the order of one file"
        )
    negative = int((losses.loss_NT[used_F] < 0).sum())
    return ImportedLosses(losses.steps, tuple(shards), int((~used_F).sum()), negative)


def _write_shard(
    folder: str, shard: int, dataset: Artifact, losses: LossTable, index_N: Int64, spec: LossesSpec, non_finite: str
) -> TrajectoryShard:
    rows = dataset.read_file(
        dataset.shards()[shard].path, ["example_id", "source", "status", "input_ids", "target_spans"]
    )
    found_N = index_N >= 0
    loss_NT = np.where(found_N[:, None], losses.loss_NT[index_N], np.nan)
    tokens = _target_tokens(rows, losses, index_N)
    finite_N = np.isfinite(loss_NT).all(axis=1)
    status_N = np.where(finite_N, schemas.OK, schemas.NON_FINITE)
    status_N = np.where(found_N, status_N, schemas.NOT_SCORED)
    status_N = np.where(pc.equal(tokens, 0).fill_null(False), schemas.NO_TARGET_TOKENS, status_N).astype(object)
    if non_finite == "fail" and (status_N == schemas.NON_FINITE).any():
        raise S2LError(_non_finite_message(spec, losses, index_N[status_N == schemas.NON_FINITE]))
    series = {"losses": loss_NT}
    if spec.values == "logits":
        series["mean_probability"] = np.exp(-loss_NT)
    return write_trajectory_shard(folder, shard, rows, tokens, status_N, series)


def _target_tokens(rows: pa.Table, losses: LossTable, index_N: Int64) -> pa.Array:
    """Target tokens of the dataset's rows; for row numbers those of the import, or null."""
    counts = schemas.token_rows(rows)
    if len(counts.ids_X):
        return pa.array(counts.target_tokens_N, pa.int32())
    if losses.tokens_N is None:
        return pa.nulls(len(rows), pa.int32())
    return pa.array(losses.tokens_N[index_N], pa.int32())


def _non_finite_message(spec: LossesSpec, losses: LossTable, index_M: Int64) -> str:
    step = losses.steps[int(np.flatnonzero(~np.isfinite(losses.loss_NT[index_M]).all(axis=0))[0])]
    return (
        f"{spec.uri}: rows have no finite loss, among them row {index_M[0]} at step {step}; correct them, or set "
        "score.non_finite: null to keep such losses as missing"
    )


def _matches(dataset: Artifact, spec: LossesSpec, losses: LossTable) -> Iterator[Int64]:
    """For each shard of the dataset, the row of the losses that belongs to each example, -1 where there is none."""
    if losses.name_N is not None:
        yield from _matches_by_name(dataset, spec.key, losses.name_N)
    else:
        yield from _matches_by_row(dataset, spec, len(losses))


def _matches_by_name(dataset: Artifact, key: str, name_F: pa.Array) -> Iterator[Int64]:
    for tokens, text in zip(dataset.shards(), dataset.shards(schemas.TEXT_FOLDER), strict=True):
        if key == EXAMPLE_ID:
            names = dataset.read_file(tokens.path, [EXAMPLE_ID])[EXAMPLE_ID]
        else:
            raws = dataset.read_file(text.path, ["raw"])["raw"].to_pylist()
            values = (json.loads(raw).get(key) for raw in raws)
            names = pa.array([None if value is None else str(value) for value in values], pa.string())
        yield pc.index_in(names, name_F).fill_null(-1).to_numpy().astype(np.int64)


def _matches_by_row(dataset: Artifact, spec: LossesSpec, rows: int) -> Iterator[Int64]:
    """Rows by their number in the one file of the dataset, in which rejected and held-out rows count too."""
    kept = [dataset.read_file(record.path, ["file", "line"]) for record in dataset.shards(schemas.TEXT_FOLDER)]
    others = [*dataset.files("rejected/"), *dataset.shards(schemas.HELD_OUT_FOLDER + schemas.TEXT_FOLDER)]
    other = [dataset.read_file(record.path, ["file", "line"]) for record in others]
    files = set().union(*(pc.unique(table["file"]).to_pylist() for table in [*kept, *other]))
    line_R = np.unique(np.concatenate([table["line"].to_numpy() for table in [*kept, *other]]))
    if len(files) > 1:
        raise S2LError(
            f"{spec.uri}: key: row means the row of one file, and the dataset was made from {len(files)} files; set "
            "score.losses_from.key to a field of the rows that is also a column of the losses"
        )
    if len(line_R) != rows:
        raise S2LError(
            f"{spec.uri}: has {rows} rows, and {next(iter(files))} has {len(line_R)}; key: row needs the same rows in "
            "the same order in both"
        )
    for table in kept:
        yield np.searchsorted(line_R, table["line"].to_numpy())
