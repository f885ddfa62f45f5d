"""Artifacts: a folder of files that is complete once its manifest exists.

Stages write files first and `manifest.json` last. Readers go through `open_artifact`, and every byte they read is
checked against the sha256 in the manifest.
"""

import dataclasses
import posixpath
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pydantic import ValidationError

from s2l_ray import storage
from s2l_ray.artifacts.execution import Execution, execution_from_json
from s2l_ray.artifacts.facts import FACTS, Counts, Facts
from s2l_ray.artifacts.fingerprint import from_json, seal, unseal
from s2l_ray.artifacts.node_cache import LIMIT_BYTES, cached_files
from s2l_ray.artifacts.schemas import KINDS_WITH_TEXT, TEXT_FOLDER, TOKENS_FOLDER, shard_number
from s2l_ray.artifacts.tables import FileRecord, decode_table, read_table, write_table
from s2l_ray.errors import DamagedError, S2LError

MANIFEST = "manifest.json"
FILES_TABLE = "files.parquet"
# a longer list of files is stored as a table beside the manifest
FILES_IN_MANIFEST = 10_000
# files of a complete artifact that were deleted on purpose
DROPPED = "dropped.json"
DROPPABLE_KINDS = {"checkpoints"}

F = TypeVar("F", bound=Facts)


@dataclass(frozen=True)
class Manifest:
    """The record of an artifact: its identity, inputs, execution, counts, facts and files.

    identity: the fields that decide the fingerprint. config: the whole resolved job. columns: name to Arrow type.
    timings: seconds from the start to this manifest, of the last attempt and, of a stage that was not resumed, the
    values of `pipeline.usage.UsageMeter`.
    """

    kind: str
    version: int
    fingerprint: str
    inputs: dict[str, str]
    identity: dict[str, Any]
    config: dict[str, Any]
    execution: Execution
    files: list[FileRecord]
    counts: Counts
    facts: Facts
    timings: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, str | None] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """A complete artifact in storage. dropped: files of its manifest that were deleted on purpose."""

    uri: str
    manifest: Manifest
    dropped: frozenset[str] = frozenset()

    def input(self, kind: str) -> "Artifact":
        """The artifact of this kind that it was made from. Raises `S2LError` where it is gone or never was an input."""
        if kind not in self.manifest.inputs:
            raise S2LError(f"{self.uri}: was not made from {kind}; its inputs are {', '.join(self.manifest.inputs)}")
        uri = posixpath.abspath(self.uri) if storage.is_local(self.uri) else self.uri
        root = posixpath.dirname(posixpath.dirname(uri))
        return open_artifact(storage.join(root, kind, self.manifest.inputs[kind]))

    def facts(self, record: type[F]) -> F:
        if not isinstance(self.manifest.facts, record):
            raise TypeError(f"{self.uri}: is {self.manifest.kind}, whose facts are no {record.__name__}")
        return self.manifest.facts

    def files(self, under: str = "") -> list[FileRecord]:
        """The files whose path begins with `under`, by path."""
        return [record for record in self.manifest.files if record.path.startswith(under)]

    def present(self) -> list[FileRecord]:
        return [record for record in self.manifest.files if record.path not in self.dropped]

    @cached_property
    def _by_path(self) -> dict[str, FileRecord]:
        return {record.path: record for record in self.manifest.files}

    def record(self, path: str) -> FileRecord:
        """The record of one file. Raises `S2LError` where the manifest does not list it."""
        if path not in self._by_path:
            raise S2LError(f"{self.uri}: has no file {path}; `s2l show {self.uri}` lists its files")
        return self._by_path[path]

    def read_file(self, path: str, columns: Sequence[str] | None = None, cache_bytes: int | None = None) -> pa.Table:
        """One table, checked against its sha256.

        cache_bytes: read it through the node's cache of this size, for a table that is read repeatedly.
        """
        if cache_bytes is None or storage.is_local(self.uri):
            return read_table(self.uri, self.record(path), columns)
        with self.hold(path, cache_bytes) as folder:
            return decode_table((folder / path).read_bytes(), columns)

    def shards(self, folder: str | None = None) -> list[FileRecord]:
        """The shards in order of their numbers; of a dataset those of `folder`, by default `tokens/`."""
        if folder is None:
            folder = TOKENS_FOLDER if self.manifest.kind in KINDS_WITH_TEXT else ""
        return sorted(self.files(f"{folder}shard-"), key=lambda record: shard_number(record.path))

    def read_shard(self, number: int) -> pa.Table:
        """All columns of one shard: of a dataset, those of its tokens and of its text."""
        folders = (TOKENS_FOLDER, TEXT_FOLDER) if self.manifest.kind in KINDS_WITH_TEXT else (None,)
        tables = [self.read_file(self.shards(folder)[number].path) for folder in folders]
        return pa.table({name: table[name] for table in tables for name in table.column_names})

    def read_tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The shards as tables, one at a time, in order."""
        return (read_table(self.uri, record, columns) for record in self.shards())

    def read_table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All shards as one table, in order, in memory."""
        return pa.concat_tables(self.read_tables(columns))

    def hold(self, under: str, limit_bytes: int = LIMIT_BYTES) -> AbstractContextManager[Path]:
        """A local folder with the files whose path begins with `under`, each checked, while a block runs.

        Files from an object store are cached on the node, within `limit_bytes`.
        """
        return cached_files(self.uri, self.files(under), limit_bytes)


def open_artifact(uri: str) -> Artifact:
    """The complete artifact at `{root}/{kind}/{fingerprint}`.

    Raises `S2LError` where there is none (never begun, or incomplete) or where another version of s2l_ray wrote it,
    and `DamagedError` where the manifest is not what was written.
    """
    manifest_uri = storage.join(uri, MANIFEST)
    try:
        values = unseal(storage.read_bytes(manifest_uri), manifest_uri)
    except FileNotFoundError as error:
        raise S2LError(f"{uri}: no complete artifact; `s2l ls ROOT` lists the artifacts of a root") from error
    manifest = _with_listed_files(uri, _manifest_from_json(values, manifest_uri))
    dropped = read_dropped(uri) if manifest.kind in DROPPABLE_KINDS else frozenset()
    return Artifact(uri.rstrip("/"), manifest, dropped)


def write_manifest(uri: str, manifest: Manifest) -> Artifact:
    """Commit an artifact: the list of files (a table where it is long), then the manifest."""
    ordered = dataclasses.replace(manifest, files=sorted(manifest.files, key=lambda record: record.path))
    _refuse_foreign_paths(ordered)
    stored = ordered
    if len(ordered.files) > FILES_IN_MANIFEST:
        table = pa.Table.from_pylist([dataclasses.asdict(record) for record in ordered.files])
        stored = dataclasses.replace(ordered, files=[write_table(uri, FILES_TABLE, table)])
    storage.write_bytes(storage.join(uri, MANIFEST), seal(dataclasses.asdict(stored)))
    return Artifact(uri, ordered)


def read_dropped(uri: str) -> frozenset[str]:
    """Paths of the dropped files, including those not deleted yet."""
    record = storage.join(uri, DROPPED)
    try:
        return frozenset(unseal(storage.read_bytes(record), record)["files"])
    except FileNotFoundError:
        return frozenset()


def drop(uri: str, paths: Collection[str]) -> list[str]:
    """Record and delete files, and those that an interrupted call left. Returns the paths that were deleted.

    The record comes first, so that a crash never leaves an unexplained missing file. The manifest is not changed.
    """
    before = read_dropped(uri)
    dropped = before.union(paths)
    if dropped != before:
        storage.write_bytes(storage.join(uri, DROPPED), seal({"files": sorted(dropped)}))
    left = [entry.path for entry in storage.list_files(uri) if entry.path in dropped]
    for path in left:
        storage.delete_file(storage.join(uri, path))
    return left


def _manifest_from_json(values: dict[str, Any], uri: str) -> Manifest:
    try:
        kind = values["kind"]
        records = {
            "execution": execution_from_json(kind, values["execution"]),
            "files": [FileRecord(**entry) for entry in values["files"]],
            "counts": Counts(**values["counts"]),
            "facts": from_json(FACTS[kind], values["facts"]),
        }
        return Manifest(**{**values, **records})
    except (KeyError, TypeError, ValidationError) as error:
        raise S2LError(f"{uri}: written by another version of s2l_ray; use a new root") from error


def _with_listed_files(uri: str, manifest: Manifest) -> Manifest:
    if [record.path for record in manifest.files] == [FILES_TABLE]:
        listed = read_table(uri, manifest.files[0]).to_pylist()
        manifest = dataclasses.replace(manifest, files=[FileRecord(**entry) for entry in listed])
    _refuse_foreign_paths(manifest)
    return manifest


def _refuse_foreign_paths(manifest: Manifest) -> None:
    for record in manifest.files:
        if record.path.startswith("/") or ".." in record.path.split("/"):
            raise DamagedError(f"{manifest.kind}/{manifest.fingerprint}: {record.path} leaves the artifact's folder")
