"""Parse a range of raw rows into pieces: files of bounded size with the examples of consecutive rows.

A range can be a whole gzip file of many gigabytes, so it is never held in memory; its pieces are.
"""

import json
from collections import Counter
from typing import Any

import pyarrow as pa

from s2l_ray.artifacts.receipts import write_receipt
from s2l_ray.artifacts.schemas import REJECTED
from s2l_ray.artifacts.tables import write_table
from s2l_ray.config.identity import source_spec
from s2l_ray.config.sections import Data, Source
from s2l_ray.core.data.examples import FORMATS, Example, RejectedRow, example_id, guess_format
from s2l_ray.sources.ranges import RangeReader, SourceSpec
from s2l_ray.sources.rows import RawRow
from s2l_ray.stages.prepare_records import ParsedRange, ParseUnit, Piece

IDS = pa.schema([("example_id", pa.string()), ("source", pa.string()), ("line", pa.int64())])
TEXTS = pa.schema([("raw", pa.string())])
# Rows are Python objects until their piece is written, several times the size of its text.
PIECE_ROWS, PIECE_CHARACTERS = 4096, 16 << 20

Row = dict[str, Any]


class ParseWorker:
    """Parse a range of raw rows into pieces, which are not larger than a shard."""

    def __init__(self, folder: str, data: Data) -> None:
        self._folder = folder
        self._sources = data.sources
        self._piece_rows = min(PIECE_ROWS, data.shard_size)

    def __call__(self, unit: ParseUnit) -> ParsedRange:
        source = self._sources[unit.range.source]
        spec, reader = source_spec(source), RangeReader(unit.range)
        pieces = PieceWriter(self._folder, unit, self._piece_rows)
        for raw in reader:
            try:
                pieces.add(_parse(raw, source, spec))
            except RejectedRow as error:
                pieces.reject(raw.line, error)
        pieces.flush()
        result = ParsedRange(reader.lines, dict(pieces.reasons), pieces.written)
        return write_receipt(self._folder, unit.receipt, unit.key, result)


class PieceWriter:
    """Collect the rows of a range and write a piece whenever there are enough."""

    def __init__(self, folder: str, unit: ParseUnit, rows: int) -> None:
        self.written: list[Piece] = []
        self.reasons: Counter[str] = Counter()
        self._folder, self._unit, self._rows = folder, unit, rows
        self._examples: list[Row] = []
        self._rejected: list[Row] = []
        self._characters = 0

    def add(self, row: Row) -> None:
        self._examples.append(row)
        self._characters += len(row["raw"])
        self._flush_if_full()

    def reject(self, line: int, error: RejectedRow) -> None:
        row = {"file": self._unit.range.file, "line": line, "source": None, "example_id": None}
        self._rejected.append({**row, "reason": error.reason, "detail": error.detail[:200]})
        self.reasons[error.reason] += 1
        self._flush_if_full()

    def flush(self) -> None:
        """Write the rows collected since the last piece, if there are any."""
        if self._examples or self._rejected:
            source, file = self._unit.range.source, self._unit.range.file
            rejected = self._write("rejected", self._rejected, REJECTED) if self._rejected else None
            ids, text = self._write("ids", self._examples, IDS), self._write("text", self._examples, TEXTS)
            self.written.append(Piece(source, file, ids, text, rejected))
        self._examples, self._rejected, self._characters = [], [], 0

    def _flush_if_full(self) -> None:
        if len(self._examples) + len(self._rejected) >= self._rows or self._characters >= PIECE_CHARACTERS:
            self.flush()

    def _write(self, name: str, rows: list[Row], schema: pa.Schema) -> Any:
        path = f"work/{name}-{self._unit.number:05d}-{len(self.written):05d}.parquet"
        return write_table(self._folder, path, pa.Table.from_pylist(rows, schema=schema))


def _parse(raw: RawRow, source: Source, spec: SourceSpec) -> Row:
    """A row of `IDS` and `TEXTS`. Raises `RejectedRow`."""
    if raw.row is None:
        raise RejectedRow(raw.reason or "undecodable", raw.detail)
    if not spec.matches(raw.row):
        raise RejectedRow("filtered", f"not of {source.only}")
    example = read_example(raw.row, source)
    name = spec.source_name(raw.row)
    if name is None:
        field = source.source["field"] if source.source else ""
        raise RejectedRow("missing_field", f"no {field} to name the source")
    text = json.dumps(raw.row, ensure_ascii=False, sort_keys=False, separators=(",", ":"), default=str)
    return {"example_id": example_id(example), "source": name, "line": raw.line, "raw": text}


def read_example(row: Row, source: Source) -> Example:
    """The example of a row, in the format of its source or a guessed one. Raises `RejectedRow`."""
    name: str | None = source.format
    fields: dict[str, str] = dict(source.fields)
    if name is None:
        guessed = guess_format(row)
        if guessed is None:
            raise RejectedRow("missing_field", f"no known format has the fields {', '.join(list(row)[:8])}")
        name, fields = guessed[0], {**guessed[1], **fields}
    return FORMATS[name](row, fields)
