"""Artefacts: a folder of files that exists once its manifest does.

In: a place `{root}/{kind}/{fingerprint}/`, files put there by a stage and its workers. Out: `manifest.json`, written
last and never touched again; `open_artifact`, through which every reader goes and by which every byte read is checked.
Without a manifest an artefact does not exist, whatever lies in its folder.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from s2l_ray import storage
from s2l_ray.artifacts.dropped_files import read_dropped
from s2l_ray.artifacts.fingerprint import seal, unseal
from s2l_ray.artifacts.node_cache import LIMIT_BYTES, cached_files
from s2l_ray.artifacts.tables import FileRecord, decode_table, read_table, read_verified, record_of
from s2l_ray.errors import DamagedError, S2LError

MANIFEST = "manifest.json"
EXECUTION = "execution.json"
FILES_TABLE = "files.parquet"
FILES_IN_MANIFEST = 10_000
MAY_BE_DROPPED = {"checkpoints"}
"""Kinds of which files may be dropped; of the others nobody has to ask."""


@dataclass(frozen=True)
class Manifest:
    """What an artefact is, what it was made from and how, and every file of it.

    `identity` decides the fingerprint; `config` is the whole resolved job; `execution` is how it was begun (workers,
    threads, libraries); `counts` say in = kept + set aside by reason; `facts` hold what the next stage needs to know.
    """

    kind: str
    version: int
    fingerprint: str
    inputs: dict[str, str]
    identity: dict[str, Any]
    config: dict[str, Any]
    execution: dict[str, Any]
    files: list[FileRecord]
    counts: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """A finished artefact in storage. `dropped`: files of its manifest that were taken away on purpose."""

    uri: str
    manifest: Manifest
    dropped: frozenset[str] = frozenset()

    def files(self, under: str = "") -> list[FileRecord]:
        """Its files, by path; those whose path begins with `under`."""
        return [record for record in self.manifest.files if record.path.startswith(under)]

    def present(self) -> list[FileRecord]:
        """Those of its files that were not dropped."""
        return [record for record in self.manifest.files if record.path not in self.dropped]

    @cached_property
    def _by_path(self) -> dict[str, FileRecord]:
        return {record.path: record for record in self.manifest.files}

    def record(self, path: str) -> FileRecord:
        """The record of one file. Raises `S2LError` where the manifest has none of that path."""
        if path not in self._by_path:
            raise S2LError(f"{self.uri}: has no file {path}; `s2l show {self.uri}` lists its files")
        return self._by_path[path]

    def read_bytes(self, path: str) -> bytes:
        """One file, checked against its sha256."""
        return read_verified(self.uri, self.record(path))

    def read_file(self, path: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One table, checked against its sha256."""
        return read_table(self.uri, self.record(path), columns)

    def shards(self) -> list[FileRecord]:
        """The shards, in order."""
        return self.files("shard-")

    def read_tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The shards as tables, one after the other, in order."""
        return (read_table(self.uri, record, columns) for record in self.shards())

    def read_table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All shards as one table, in order. Holds all of it in memory."""
        return pa.concat_tables(self.read_tables(columns))

    def hold(self, under: str, limit_bytes: int = LIMIT_BYTES) -> AbstractContextManager[Path]:
        """A local folder with the files whose path begins with `under`, while a block runs, each checked.

        Of an artefact in an object store they are copies, which this node keeps within `limit_bytes` for the next time.
        """
        return cached_files(self.uri, self.files(under), limit_bytes)

    def read_held(self, path: str, columns: Sequence[str] | None = None, limit_bytes: int = LIMIT_BYTES) -> pa.Table:
        """`read_file` for a table that this node reads again and again."""
        if storage.is_local(self.uri):
            return self.read_file(path, columns)
        with self.hold(path, limit_bytes) as folder:
            return decode_table((folder / path).read_bytes(), columns)

    def fetch(self, folder: str, cache: Path | None = None) -> Path:
        """A local folder with the files below `folder`, every one checked against its sha256."""
        for record in self.files(f"{folder}/"):
            data = read_verified(self.uri, record)
            if cache is not None:
                storage.write_bytes(str(cache / record.path), data)
        return (cache or storage.local_path(self.uri)) / folder


def open_artifact(uri: str) -> Artifact:
    """The finished artefact at `{root}/{kind}/{fingerprint}`.

    Raises `S2LError` where there is none (never begun, or begun and not finished), `DamagedError` where the manifest is
    not what was written.
    """
    place = storage.join(uri, MANIFEST)
    try:
        record = unseal(storage.read_bytes(place), place)
    except FileNotFoundError as error:
        raise S2LError(f"{uri}: no finished artefact there; `s2l ls` of the root lists what there is") from error
    manifest = Manifest(**{**record, "files": [FileRecord(**entry) for entry in record["files"]]})
    dropped = read_dropped(uri) if manifest.kind in MAY_BE_DROPPED else frozenset()
    return Artifact(uri.rstrip("/"), _with_listed_files(uri, manifest), dropped)


def write_manifest(uri: str, manifest: Manifest) -> Artifact:
    """Commit an artefact: the list of files (beside the manifest where it is long), then the manifest."""
    ordered = dataclasses.replace(manifest, files=sorted(manifest.files, key=lambda record: record.path))
    _refuse_foreign_paths(ordered)
    stored = ordered
    if len(ordered.files) > FILES_IN_MANIFEST:
        from s2l_ray.artifacts.tables import write_table

        table = pa.Table.from_pylist([dataclasses.asdict(record) for record in ordered.files])
        stored = dataclasses.replace(ordered, files=[write_table(uri, FILES_TABLE, table)])
    storage.write_bytes(storage.join(uri, MANIFEST), seal(dataclasses.asdict(stored)))
    return Artifact(uri, ordered)


def _with_listed_files(uri: str, manifest: Manifest) -> Manifest:
    if [record.path for record in manifest.files] != [FILES_TABLE]:
        _refuse_foreign_paths(manifest)
        return manifest
    listed = read_table(uri, manifest.files[0]).to_pylist()
    whole = dataclasses.replace(manifest, files=[FileRecord(**entry) for entry in listed])
    _refuse_foreign_paths(whole)
    return whole


def _refuse_foreign_paths(manifest: Manifest) -> None:
    for record in manifest.files:
        if record.path.startswith("/") or ".." in record.path.split("/"):
            raise DamagedError(f"{manifest.kind}/{manifest.fingerprint}: {record.path} leaves the artefact's folder")


def put_bytes(folder: str, path: str, data: bytes) -> FileRecord:
    """Put a file that is no table and say what was put."""
    storage.write_bytes(storage.join(folder, path), data)
    return record_of(path, data)


def begin_execution(folder: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """The execution record of an artefact: the one it was begun with, else `wanted`, which is written down now."""
    place = storage.join(folder, EXECUTION)
    try:
        return unseal(storage.read_bytes(place), place)
    except FileNotFoundError:
        storage.write_bytes(place, seal(wanted))
        return wanted


def read_execution(folder: str) -> dict[str, Any] | None:
    """The execution record of an artefact that was begun, or None."""
    place = storage.join(folder, EXECUTION)
    return unseal(storage.read_bytes(place), place) if storage.exists(place) else None
