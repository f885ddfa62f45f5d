"""A subset as the rows it came from, for a trainer to read.

In: a finished subset; its dataset lies under the same root. Out: one JSONL, gzipped JSONL or Parquet file of the
original rows, in the order of the pool. It is written shard by shard and put whole; every byte read is checked.
"""

import gzip
import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from s2l_ray import storage
from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.catalog.listing import root_of
from s2l_ray.errors import ConfigError, DamagedError, S2LError

ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")


@dataclass(frozen=True)
class Exported:
    """A written file."""

    path: str
    rows: int
    bytes: int


def export_subset(subset: Artifact, target: str, *, force: bool = False) -> Exported:
    """Write the rows of a subset to `target`, a path or URI whose ending says the form.

    Raises `ConfigError` for an unknown ending, an artefact of another kind, and a file that is there without `force`;
    `DamagedError` where the subset or its dataset is not what was written.
    """
    if not target.endswith(ENDINGS):
        raise ConfigError(f"--to {target}: unknown ending; write a name that ends in {', '.join(ENDINGS)}")
    if subset.manifest.kind != "subset":
        raise ConfigError(f"{subset.uri}: is no subset but {subset.manifest.kind}; `s2l ls ROOT` lists the subsets")
    if storage.exists(target) and not force:
        raise ConfigError(f"--to {target}: is there already; give another name, or --force to replace it")
    dataset = dataset_of(subset)
    with _put_whole(target) as path:
        rows = (_write_parquet if target.endswith(".parquet") else _write_lines)(subset, dataset, path)
        written = path.stat().st_size
    return Exported(target, rows, written)


def dataset_of(subset: Artifact) -> Artifact:
    """The dataset that a subset points into, under the same root. Raises `S2LError` where it is gone."""
    return open_artifact(storage.join(root_of(subset.uri), "dataset", subset.manifest.inputs["dataset"]))


def picked_rows(subset: Artifact, dataset: Artifact) -> Iterator[list[str]]:
    """The picked rows as JSON texts, shard by shard, in the order of the pool."""
    picks = subset.read_table(["example_id", "shard", "row"]).sort_by([("shard", "ascending"), ("row", "ascending")])
    shards = dataset.shards()
    for shard in picks["shard"].unique().to_pylist():
        here = picks.filter(pc.equal(picks["shard"], shard))
        table = dataset.read_file(shards[shard].path, ["example_id", "raw"]).take(here["row"])
        if table["example_id"].to_pylist() != here["example_id"].to_pylist():
            raise DamagedError(f"{subset.uri}: its picks are other rows than those of {dataset.uri}")
        yield table["raw"].to_pylist()


def _write_lines(subset: Artifact, dataset: Artifact, path: Path) -> int:
    rows = 0
    with path.open("wb") as plain, _packed(plain, str(path).endswith(".gz")) as stream:
        for texts in picked_rows(subset, dataset):
            stream.write("".join(f"{text}\n" for text in texts).encode())
            rows += len(texts)
    return rows


@contextmanager
def _packed(stream: IO[bytes], pack: bool) -> Iterator[IO[bytes]]:
    if not pack:
        yield stream
        return
    with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as packed:  # the same rows, the same bytes
        yield cast(IO[bytes], packed)


def _write_parquet(subset: Artifact, dataset: Artifact, path: Path) -> int:
    """Two passes: rows of several sources differ in their fields, and a Parquet file has one schema."""
    schema, rows = pa.schema([]), 0
    for texts in picked_rows(subset, dataset):
        schema = _unite(schema, _table([json.loads(text) for text in texts], None).schema)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for texts in picked_rows(subset, dataset):
            writer.write_table(_table([json.loads(text) for text in texts], schema))
            rows += len(texts)
    return rows


def _unite(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    try:
        return pa.unify_schemas([one, other], promote_options="permissive")
    except pa.ArrowException as error:
        raise S2LError(f"the rows fit no one Parquet schema ({error}); export to a .jsonl file instead") from error


def _table(rows: list[dict[str, Any]], schema: pa.Schema | None) -> pa.Table:
    """A table with every field of any of the rows (pyarrow itself looks at the first row's alone)."""
    if schema is not None:
        return pa.Table.from_pylist(rows, schema=schema)
    columns: dict[str, pa.Array] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
        except pa.ArrowException as error:
            raise S2LError(f"field {name} holds values of several types ({error}); export to a .jsonl file") from error
    return pa.table(columns)


@contextmanager
def _put_whole(target: str) -> Iterator[Path]:
    """A temporary file that becomes `target` once it is written."""
    if not storage.is_local(target):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / target.rsplit("/", 1)[-1]
            yield path
            storage.put_file(path, target)
        return
    final = storage.local_path(target)
    final.parent.mkdir(parents=True, exist_ok=True)
    path = final.parent / f".{uuid.uuid4().hex}.{final.name}"
    try:
        yield path
        os.replace(path, final)
    finally:
        path.unlink(missing_ok=True)
