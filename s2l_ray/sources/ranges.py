"""Source files as ranges of rows in one global order: source as configured, file name, position in the file.

A range can be read by any worker, independently of the others. A line of uncompressed JSONL belongs to the byte range
in which it starts; Parquet is split by row groups; every other file is one range, read as a stream.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pyarrow as pa

from s2l_ray import storage
from s2l_ray.core.data.chat import without_null_keys
from s2l_ray.core.data.turns import Row
from s2l_ray.sources.files.compression import decompress
from s2l_ray.sources.files.delimited import read_delimited
from s2l_ray.sources.files.detect import detect_layout
from s2l_ray.sources.files.json_text import read_json
from s2l_ray.sources.files.listing import find_source_files
from s2l_ray.sources.files.tables import read_arrow, read_row_group
from s2l_ray.sources.files.text import read_byte_range, read_chunks, read_lines
from s2l_ray.sources.hub import hub_dataset, read_hub
from s2l_ray.sources.rows import RawRow, SourceError
from s2l_ray.sources.spec import SourceSpec

RANGE_BYTES = 64 << 20
HUB_ROWS = 100_000


@dataclass(frozen=True)
class Range:
    """A range of rows of one file: the unit of parsing.

    source: index of its entry in data.sources. uri: of the file, or [id, config, commit, split] of a data set of the
    hub. file: the name of the file in tables and messages. kind, compression, line_end: see `Layout`, or the kind hub.
    start, stop: bytes, or rows for the kinds parquet and hub. file_bytes: size of the file when it was listed.
    partitions: columns in the names of the file's folders.
    """

    source: int
    uri: str
    file: str
    kind: str
    start: int
    stop: int
    file_bytes: int
    compression: str | None = None
    line_end: str = "\n"
    partitions: Mapping[str, str | None] = field(default_factory=dict)

    def without_added_nulls(self, row: Row) -> Row:
        """The row without the keys that Arrow adds to objects, as null, where other rows have them."""
        return without_null_keys(row) if self.kind in ("parquet", "arrow", "arrow_stream", "hub") else row


def list_ranges(specs: Sequence[SourceSpec], root: str, range_bytes: int = RANGE_BYTES) -> list[Range]:
    """Ranges of all sources in global order: source as configured, file name, position.

    Raises `ConfigError` if a source does not exist, `SourceError` if the content of a file does not match its name.
    """
    return [one for source, spec in enumerate(specs) for one in _ranges_of(source, spec, root, range_bytes)]


def _ranges_of(source: int, spec: SourceSpec, root: str, range_bytes: int) -> Iterator[Range]:
    if spec.hub is not None:
        reference = spec.hub, spec.config, spec.revision, spec.split
        total = len(hub_dataset(*reference))
        for start in range(0, total, HUB_ROWS):
            yield Range(source, json.dumps(reference), spec.hub, "hub", start, min(start + HUB_ROWS, total), 0)
        return
    for file in find_source_files(spec, root).files:
        with _open(file.uri, file.name) as stream:
            layout = detect_layout(stream, file.name, range_bytes)
        for start, stop in pairwise(layout.bounds):
            if start < stop:
                yield Range(
                    source,
                    file.uri,
                    file.name,
                    layout.kind,
                    start,
                    stop,
                    file.entry.bytes,
                    layout.compression,
                    layout.line_end,
                    file.partitions,
                )


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
            case "parquet":
                yield from read_row_group(stream, one.file, one.start)
            case "arrow" | "arrow_stream":
                yield from read_arrow(stream, one.file, one.kind)
            case "lines" if one.compression is None:
                yield from read_byte_range(stream, one.line_end.encode(), one.start, one.stop)
            case _:
                yield from _read_text(one, stream)


def _read_text(one: Range, stream: pa.NativeFile) -> Iterator[RawRow]:
    """Rows of a whole file of text."""
    chunks = decompress(stream, one.compression) if one.compression else read_chunks(stream)
    match one.kind:
        case "json":
            return read_json(chunks)
        case "lines":
            return read_lines(chunks, one.line_end.encode())
        case kind:
            return read_delimited(chunks, kind, one.line_end.encode())


def _open(uri: str, file: str) -> pa.NativeFile:
    try:
        return storage.open_input(uri)
    except OSError as error:
        raise SourceError(f"{file}: cannot be opened ({error}); check that it exists and is readable") from error
