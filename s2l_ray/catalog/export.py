"""Export of a subset as its original rows, for a trainer to read.

One JSONL, gzipped JSONL or Parquet file in pool order, written shard by shard and put whole; every byte read from the
artifacts is checked.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from gzip import GzipFile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from s2l_ray import storage
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import TEXT_FOLDER
from s2l_ray.errors import ConfigError, DamagedError, S2LError

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


@dataclass(frozen=True)
class Exported:
    """A written file."""

    path: str
    rows: int
    bytes: int


def export_subset(subset: Artifact, target: str, *, force: bool = False) -> Exported:
    """Write the rows of a subset to `target`, a path or URI whose suffix decides the format.

    Raises `ConfigError` for an unknown suffix, another kind of artifact, or an existing file without `force`;
    `DamagedError` where the subset or its dataset is not what was written.
    """
    if not target.endswith(SUFFIXES):
        raise ConfigError(f"--to {target}: unknown suffix; write a name that ends in {', '.join(SUFFIXES)}")
    if subset.manifest.kind != "subset":
        raise ConfigError(f"{subset.uri}: is a {subset.manifest.kind} artifact, not a subset; `s2l ls ROOT` lists them")
    if storage.exists(target) and not force:
        raise ConfigError(f"--to {target}: already exists; give another name, or --force to overwrite it")
    dataset = subset.input("dataset")
    with storage.output_file(target) as path:
        if target.endswith(".parquet"):
            rows = _write_parquet(subset, dataset, path)
        else:
            rows = _write_lines(subset, dataset, path, compressed=target.endswith(".gz"))
        written = path.stat().st_size
    return Exported(target, rows, written)


def selected_rows(subset: Artifact, dataset: Artifact) -> Iterator[list[str]]:
    """The selected rows as JSON texts, shard by shard, in pool order; a row with several selected answers once."""
    selected = subset.read_table(["example_id", "shard", "row"]).sort_by([("shard", "ascending"), ("row", "ascending")])
    tokens, texts = dataset.shards(), dataset.shards(TEXT_FOLDER)
    for shard in selected["shard"].unique().to_pylist():
        here = selected.filter(pc.equal(selected["shard"], shard))
        ids = dataset.read_file(tokens[shard].path, ["example_id"])["example_id"].take(here["row"])
        if ids.to_pylist() != here["example_id"].to_pylist():
            raise DamagedError(f"{subset.uri}: points to other rows than {dataset.uri} holds")
        rows = dataset.read_file(texts[shard].path, ["raw", "file", "line", "answer"]).take(here["row"])
        yield rows.filter(_first_answers(rows))["raw"].to_pylist()


def _first_answers(rows: pa.Table) -> pa.Array:
    """Whether each example is the first of its row; those of a row are neighbours."""
    positions = list(zip(rows["file"].to_pylist(), rows["line"].to_pylist(), strict=True))
    answers = rows["answer"].to_pylist()
    return pa.array(
        [
            answer is None or number == 0 or positions[number] != positions[number - 1]
            for number, answer in enumerate(answers)
        ],
        pa.bool_(),
    )


def _write_lines(subset: Artifact, dataset: Artifact, path: Path, *, compressed: bool) -> int:
    rows = 0
    # a gzip header without name and time stamp, so that equal rows are equal bytes
    with path.open("wb") as file, GzipFile("", "wb", fileobj=file, mtime=0) if compressed else file as stream:
        for texts in selected_rows(subset, dataset):
            stream.write("".join(f"{text}\n" for text in texts).encode())
            rows += len(texts)
    return rows


def _write_parquet(subset: Artifact, dataset: Artifact, path: Path) -> int:
    """Two passes: rows of several sources differ in their fields, and a Parquet file has one schema."""
    rows = 0
    schemas = [_table([json.loads(text) for text in texts]).schema for texts in selected_rows(subset, dataset)]
    try:
        schema = pa.unify_schemas([pa.schema([]), *schemas], promote_options="permissive")
    except pa.ArrowException as error:
        raise S2LError(f"the rows fit no one Parquet schema ({error}); export to a .jsonl file instead") from error
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for texts in selected_rows(subset, dataset):
            writer.write_table(pa.Table.from_pylist([json.loads(text) for text in texts], schema=schema))
            rows += len(texts)
    return rows


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    """A table with every field of any of the rows (pyarrow itself looks at the first row's alone)."""
    columns: dict[str, pa.Array] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
        except pa.ArrowException as error:
            raise S2LError(f"field {name} holds values of several types ({error}); export to a .jsonl file") from error
    return pa.table(columns)
