"""Source files as ranges of rows in one global order: source as configured, file name, position in the file.

A range can be read by any worker, independently of the others. A line of uncompressed JSONL belongs to the byte range
in which it starts; Parquet is split by row groups; every other file is one range, read as a stream.
"""

import json
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pyarrow as pa

from s2l_ray import storage
from s2l_ray.core.data.turns import as_text, nested_value
from s2l_ray.errors import ConfigError
from s2l_ray.sources.detect import EXTENSIONS, detect_ranges, extension_of
from s2l_ray.sources.jsonl import gunzip, read_byte_range, read_chunks, read_lines, read_list
from s2l_ray.sources.parquet import hub_dataset, read_arrow, read_hub, read_row_group
from s2l_ray.sources.rows import RawRow, SourceError

RANGE_BYTES = 64 << 20
HUB_ROWS = 100_000
# describes the files of a folder to a trainer
REGISTRY = "dataset_info.json"
# Skipped files that are named; others are counted.
NAMED = 8


@dataclass(frozen=True)
class SourceSpec:
    """The rows of one entry of data.sources.

    path: a file or folder. hub: the id of a data set. source: {"field": name} or {"name": text}. only: maps a field to
    the value or values that a row must have.
    """

    path: str | None = None
    hub: str | None = None
    revision: str | None = None
    split: str | None = None
    source: Mapping[str, str] | None = None
    only: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def source_name(self, row: Mapping[str, object]) -> str | None:
        """Source of a row: the value of the field (None if the row lacks it), the configured name, or the stem."""
        if self.source is None:
            return self.stem
        return self.source["name"] if "name" in self.source else self.field_value(row, self.source["field"])

    @staticmethod
    def field_value(row: Mapping[str, object], name: str) -> str | None:
        """The value of a field, whose name may have dots for nested fields, as the name of a source.

        Spaces at both ends are removed; numbers and booleans are written as JSON. None for null, an empty text, and
        for lists and objects.
        """
        text = as_text(nested_value(row, name))
        return text.strip() or None if text is not None else None

    @property
    def columns(self) -> set[str]:
        """The columns that name the source of a row or filter rows."""
        return {name.partition(".")[0] for name in (*(self.source or {}).values(), *self.only)}

    def matches(self, row: Mapping[str, object]) -> bool:
        return all(self.field_value(row, name) in wanted for name, wanted in self.only.items())

    @property
    def stem(self) -> str:
        """The last part of the path or id, without a supported extension."""
        name = posixpath.basename((self.path or self.hub or "").rstrip("/"))
        return name[: len(name) - len(extension_of(name) or "")]


@dataclass(frozen=True)
class Range:
    """A range of rows of one file: the unit of parsing.

    source: index of its entry in data.sources. uri: of the file, or [id, revision, split] of a data set of the hub.
    file: the name of the file in tables and messages. start, stop: bytes, or rows for the kinds parquet and hub.
    file_bytes: size of the file when it was listed.
    """

    source: int
    uri: str
    file: str
    kind: str
    start: int
    stop: int
    file_bytes: int

    @property
    def has_arrow_nulls(self) -> bool:
        """Whether objects of the rows have null for keys that only other rows have."""
        return self.kind in ("parquet", "arrow", "hub")


@dataclass(frozen=True)
class SourceFiles:
    """Files of a source in order, as (URI, name in messages, entry). arrow: whether `datasets` saved them.

    skipped: names of the other files of a folder.
    """

    files: tuple[tuple[str, str, storage.Entry], ...]
    arrow: bool = False
    skipped: tuple[str, ...] = ()


def source_uri(path: str, root: str) -> str:
    """The URI of a path of the job; a relative one starts at `root`."""
    path = os.path.expanduser(path)
    return path if path.startswith("/") or "://" in path else storage.join(os.path.expanduser(root), path)


def find_source_files(spec: SourceSpec, root: str) -> SourceFiles:
    """Find the files of a source with a path; a relative path starts at `root`.

    Raises `ConfigError` if there is no supported file.
    """
    assert spec.path is not None
    uri = source_uri(spec.path, root)
    file = storage.find(uri)
    if file is not None:
        if extension_of(spec.path) is None:
            raise ConfigError(f"source {spec.path}: unknown extension; supported are {' '.join(EXTENSIONS)}")
        return SourceFiles(((uri, spec.path, file),))
    if not storage.exists(uri):
        raise ConfigError(f"source {spec.path}: {uri} does not exist; correct its path, or data.root")
    entries = {entry.path: entry for entry in storage.list_files(uri)}
    saved = _saved_by_datasets(spec, uri, set(entries))
    names = saved or [name for name in entries if extension_of(name) and not _is_hidden(name)]
    if not names:
        found = f"; found {', '.join(list(entries)[:5])}" if entries else ""
        raise ConfigError(f"source {spec.path}: no file with the extension {' '.join(EXTENSIONS)}{found}")
    files = ((storage.join(uri, name), f"{spec.path.rstrip('/')}/{name}", entries[name]) for name in names)
    return SourceFiles(tuple(files), bool(saved), () if saved else tuple(sorted(set(entries).difference(names))))


def _is_hidden(name: str) -> bool:
    """Whether a file is not data: `_SUCCESS`, `_temporary/...`, or the registry of a trainer."""
    return any(part.startswith("_") for part in name.split("/")) or posixpath.basename(name) == REGISTRY


def skipped_files(spec: SourceSpec, root: str) -> Iterator[str]:
    """A line for the files of a folder with an extension that is not read, and one for those that are not data."""
    skipped = find_source_files(spec, root).skipped if spec.path is not None else ()
    groups = {
        "because of their extensions": [name for name in skipped if not _is_hidden(name)],
        f"because their names begin with _ or are {REGISTRY}": [name for name in skipped if _is_hidden(name)],
    }
    for reason, names in groups.items():
        if names:
            yield f"files not read {reason} ({len(names)}): {', '.join(names[:NAMED])}{', ...' * (len(names) > NAMED)}"


def _saved_by_datasets(spec: SourceSpec, uri: str, names: set[str]) -> list[str]:
    """Names of the Arrow files of a folder that `datasets` saved, in its order; empty for another folder."""
    folder = ""
    if spec.split is not None and "dataset_dict.json" not in names:
        raise ConfigError(f"source {spec.path}: has no splits; remove split: {spec.split}")
    if "dataset_dict.json" in names:
        splits = json.loads(storage.read_bytes(storage.join(uri, "dataset_dict.json")))["splits"]
        if spec.split not in splits:
            raise ConfigError(f"source {spec.path}: has the splits {', '.join(splits)}; set split: to one of them")
        folder = f"{spec.split}/"
    if not {f"{folder}state.json", f"{folder}dataset_info.json"} <= names:
        return []
    state = json.loads(storage.read_bytes(storage.join(uri, f"{folder}state.json")))
    files = [f"{folder}{one['filename']}" for one in state["_data_files"]]
    for missing in set(files) - names:
        raise SourceError(f"{spec.path}: {missing} is missing; save the data set again")
    return files


def list_ranges(specs: Sequence[SourceSpec], root: str, range_bytes: int = RANGE_BYTES) -> list[Range]:
    """Ranges of all sources in global order: source as configured, file name, position.

    Raises `ConfigError` if a source does not exist, `SourceError` if the content of a file does not match its name.
    """
    return [one for source, spec in enumerate(specs) for one in _ranges_of(source, spec, root, range_bytes)]


def _ranges_of(source: int, spec: SourceSpec, root: str, range_bytes: int) -> Iterator[Range]:
    if spec.hub is not None:
        reference = spec.hub, spec.revision, spec.split
        total = len(hub_dataset(*reference))
        for start in range(0, total, HUB_ROWS):
            yield Range(source, json.dumps(reference), spec.hub, "hub", start, min(start + HUB_ROWS, total), 0)
        return
    found = find_source_files(spec, root)
    for uri, file, entry in found.files:
        with _open(uri, file) as stream:
            kind, bounds = ("arrow", [0, entry.bytes]) if found.arrow else detect_ranges(stream, file, range_bytes)
        for start, stop in pairwise(bounds):
            if start < stop:
                yield Range(source, uri, file, kind, start, stop, entry.bytes)


class RangeReader:
    """Rows of one range, faulty ones as rejected rows. lines: once all are read, its number of lines (or rows).

    The line of a `RawRow` counts from 1 within the range; its line in the file is that plus the `lines` of the earlier
    ranges of the file. Iteration raises `SourceError` if the file cannot be opened or has changed since it was listed.
    """

    def __init__(self, source_range: Range) -> None:
        self.range = source_range
        self.lines = 0

    def __iter__(self) -> Iterator[RawRow]:
        for raw in _read(self.range):
            self.lines = raw.line
            if raw.row is not None or raw.reason is not None:
                yield raw
        if self.range.kind in ("parquet", "hub"):  # also if the file is damaged
            self.lines = self.range.stop - self.range.start


def _read(one: Range) -> Iterator[RawRow]:
    if one.kind == "hub":
        yield from read_hub(hub_dataset(*json.loads(one.uri)), one.start, one.stop)
        return
    with _open(one.uri, one.file) as stream:
        if stream.size() != one.file_bytes:
            raise SourceError(f"{one.file}: changed since it was listed; run again")
        match one.kind:
            case "lines":
                yield from read_byte_range(stream, one.start, one.stop)
            case "parquet":
                yield from read_row_group(stream, one.file, one.start)
            case "arrow":
                yield from read_arrow(stream, one.file)
            case kind:
                chunks = gunzip(stream) if kind.endswith("_gz") else read_chunks(stream)
                yield from read_list(chunks) if kind.startswith("list") else read_lines(chunks)


def _open(uri: str, file: str) -> pa.NativeFile:
    try:
        return storage.open_input(uri)
    except OSError as error:
        raise SourceError(f"{file}: cannot be opened ({error}); check that it exists and is readable") from error
