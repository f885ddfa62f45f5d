"""The raw files of a job's sources as ranges of rows, in one global order.

In: where the sources lie: files, folders, folders that `datasets` saved, ids of the hub.
Out: `Range`s (source as listed, file name, position in the file), each read alone by `read_range`, anywhere. A line of
plain JSONL belongs to the byte range it starts in; Parquet goes by row groups; all else is one range a file, streamed.
"""

import json
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pyarrow as pa

from s2l_ray import storage
from s2l_ray.errors import ConfigError
from s2l_ray.sources.detect import ENDINGS, cut, ending_of
from s2l_ray.sources.jsonl import inflate, pieces_of, rows_of_byte_range, rows_of_lines, rows_of_list
from s2l_ray.sources.parquet import (
    HubReference,
    hub_dataset,
    rows_of_arrow,
    rows_of_hub,
    rows_of_row_group,
)
from s2l_ray.sources.rows import RawRow, SourceError

RANGE_BYTES = 64 << 20
HUB_ROWS = 100_000


@dataclass(frozen=True)
class SourceSpec:
    """One entry of data.sources, as far as it says which rows are read.

    path is a file or folder, hub the id of a data set. source is {"field": name} or {"name": text}; only maps a field
    to the value or values that a row must have there.
    """

    path: str | None = None
    hub: str | None = None
    revision: str | None = None
    split: str | None = None
    source: Mapping[str, str] | None = None
    only: Mapping[str, str | Sequence[str]] = field(default_factory=dict)

    def name_of(self, row: Mapping[str, Any]) -> str | None:
        """The source a row belongs to: the field's value, None where the row lacks it, the given name, or the stem."""
        if self.source is None:
            return self.stem
        if "name" in self.source:
            return self.source["name"]
        value = row.get(self.source["field"])
        return None if value is None else str(value)

    def wants(self, row: Mapping[str, Any]) -> bool:
        """Whether the row has the values that `only` asks for."""
        return all(
            row.get(name) is not None and str(row[name]) in ((wanted,) if isinstance(wanted, str) else wanted)
            for name, wanted in self.only.items()
        )

    @property
    def stem(self) -> str:
        """The last part of the path or id, without an ending that is known."""
        name = posixpath.basename((self.path or self.hub or "").rstrip("/"))
        return name.removesuffix(ending_of(name) or "")


@dataclass(frozen=True)
class Range:
    """A piece of work: rows of one file.

    source: place of its entry in data.sources. path: where the file lies. file: its name in tables and messages.
    start, stop: bytes of the file, or rows for the kinds parquet and hub. size: bytes of the file when it was listed.
    """

    source: int
    path: str
    file: str
    kind: str
    start: int
    stop: int
    size: int


@dataclass(frozen=True)
class SourceFiles:
    """The files of a source in their order, each as (URI, name in messages, listing), and the names passed over."""

    files: tuple[tuple[str, str, storage.Entry], ...]
    ignored: tuple[str, ...] = ()
    arrow: bool = False


def find_files(spec: SourceSpec, root: str) -> SourceFiles:
    """The files of a source that has a path; relative paths start at `root`.

    Raises `ConfigError` where nothing is there, or nothing that can be read.
    """
    assert spec.path is not None
    path = os.path.expanduser(spec.path)
    uri = path if path.startswith("/") or "://" in path else storage.join(os.path.expanduser(root), path)
    file = storage.find(uri)
    if file is not None:
        if ending_of(spec.path) is None:
            raise ConfigError(f"source {spec.path}: unknown ending; known are {' '.join(ENDINGS)}")
        return SourceFiles(((uri, spec.path, file),))
    if not storage.exists(uri):
        raise ConfigError(f"source {spec.path}: nothing at {uri}; correct its path, or data.root")
    entries = {entry.path: entry for entry in storage.list_files(uri)}
    saved = _saved_by_datasets(spec, uri, set(entries))
    names = saved or [name for name in entries if ending_of(name)]
    ignored = () if saved else tuple(name for name in entries if name not in names)
    if not names:
        passed = f" (passed over: {', '.join(ignored[:5])})" if ignored else ""
        raise ConfigError(f"source {spec.path}: no file that ends in {' '.join(ENDINGS)}{passed}")
    files = ((storage.join(uri, name), f"{spec.path.rstrip('/')}/{name}", entries[name]) for name in names)
    return SourceFiles(tuple(files), ignored, bool(saved))


def _saved_by_datasets(spec: SourceSpec, uri: str, names: set[str]) -> list[str]:
    """The Arrow files of a folder that `datasets` saved, in its order; none where it is no such folder."""
    folder = ""
    if spec.split is not None and "dataset_dict.json" not in names:
        raise ConfigError(f"source {spec.path}: has no splits; take out split: {spec.split}")
    if "dataset_dict.json" in names:
        splits = json.loads(storage.read_bytes(storage.join(uri, "dataset_dict.json")))["splits"]
        if spec.split not in splits:
            raise ConfigError(f"source {spec.path}: has the splits {', '.join(splits)}; write split: with one of them")
        folder = f"{spec.split}/"
    if not {f"{folder}state.json", f"{folder}dataset_info.json"} <= names:
        return []
    state = json.loads(storage.read_bytes(storage.join(uri, f"{folder}state.json")))
    files = [f"{folder}{one['filename']}" for one in state["_data_files"]]
    for missing in set(files) - names:
        raise SourceError(f"{spec.path}: {missing} is missing; save the data set again")
    return files


def list_ranges(specs: Sequence[SourceSpec], root: str, range_bytes: int = RANGE_BYTES) -> list[Range]:
    """The ranges of all sources in global order: source as listed, file name, position.

    Raises `ConfigError` where a source is missing, `SourceError` where a file is not what its name says.
    """
    return [piece for source, spec in enumerate(specs) for piece in _ranges_of(source, spec, root, range_bytes)]


def _ranges_of(source: int, spec: SourceSpec, root: str, range_bytes: int) -> Iterator[Range]:
    if spec.hub is not None:
        reference = HubReference(spec.hub, spec.revision, spec.split)
        total = len(hub_dataset(reference))
        for start in range(0, total, HUB_ROWS):
            yield Range(source, reference.uri(), spec.hub, "hub", start, min(start + HUB_ROWS, total), 0)
        return
    found = find_files(spec, root)
    for path, file, entry in found.files:
        with _open(path, file) as stream:
            kind, edges = ("arrow", [0, entry.bytes]) if found.arrow else cut(stream, file, range_bytes)
        for start, stop in pairwise(edges):
            if start < stop:
                yield Range(source, path, file, kind, start, stop, entry.bytes)


class RangeReader:
    """The rows of one range. `lines` says, once they are read, how many lines (or rows) the range held.

    A range cannot know how many lines lie before it: a RawRow's line counts from 1 within the range, and whoever
    wants the line of the file adds the `lines` of the ranges before it in that file.
    """

    def __init__(self, piece: Range) -> None:
        self.piece = piece
        self.lines = 0

    def __iter__(self) -> Iterator[RawRow]:
        for raw in _rows(self.piece):
            self.lines = raw.line
            if raw.row is not None or raw.problem is not None:
                yield raw
        if self.piece.kind in ("parquet", "hub"):  # also where it broke off
            self.lines = self.piece.stop - self.piece.start


def read_range(piece: Range) -> RangeReader:
    """The rows of a range, to be iterated once; faulty ones are problems and no exceptions.

    Iterating raises `SourceError` where the file cannot be opened or has changed since it was listed.
    """
    return RangeReader(piece)


def _rows(piece: Range) -> Iterator[RawRow]:
    if piece.kind == "hub":
        yield from rows_of_hub(HubReference.of_uri(piece.path), piece.start, piece.stop)
        return
    with _open(piece.path, piece.file) as stream:
        if stream.size() != piece.size:
            raise SourceError(f"{piece.file}: changed since it was listed; run again")
        if piece.kind == "lines":
            yield from rows_of_byte_range(stream, piece.start, piece.stop)
        elif piece.kind == "lines_gz":
            yield from rows_of_lines(inflate(pieces_of(stream)))
        elif piece.kind == "list":
            yield from rows_of_list(pieces_of(stream))
        elif piece.kind == "list_gz":
            yield from rows_of_list(inflate(pieces_of(stream)))
        elif piece.kind == "parquet":
            yield from rows_of_row_group(stream, piece.file, piece.start)
        else:
            yield from rows_of_arrow(stream, piece.file)


def _open(path: str, file: str) -> pa.NativeFile:
    try:
        return storage.open_input(path)
    except OSError as error:
        raise SourceError(f"{file}: cannot be opened ({error}); check that it is there and readable") from error
