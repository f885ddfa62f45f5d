"""Workers of `prepare`: parse a range, filter the pool, make the tokenizer, encode a range, cut a shard.

Workers take plain records and run without Ray in tests; transformers is imported by those that tokenize.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.artifacts.node_cache import cached_files
from s2l_ray.artifacts.receipts import write_receipt
from s2l_ray.artifacts.schemas import DATASET, NO_TARGET_TOKENS, OK, REJECTED, token_rows
from s2l_ray.artifacts.tables import FileRecord, read_table, write_table
from s2l_ray.config.identity import source_spec
from s2l_ray.config.sections import Data, Source
from s2l_ray.core.data import examples
from s2l_ray.core.data.deduplication import KEEP, REASONS, filter_rows, id_to_words
from s2l_ray.core.data.examples import Example, RejectedRow, Turn
from s2l_ray.core.data.tokenization import Encoded
from s2l_ray.runtime.worker_process import track
from s2l_ray.sources.ranges import Range, RangeReader, SourceSpec
from s2l_ray.sources.rows import RawRow
from s2l_ray.stages.prepare_records import CutUnit, EncodedRange, EncodeUnit, ParsedRange, ParseUnit, StoredFiles

PARSED = pa.schema(
    [
        ("example_id", pa.string()),
        ("entry", pa.int32()),
        ("source", pa.string()),
        ("turns", pa.string()),
        ("raw", pa.string()),
        ("file", pa.string()),
        ("line", pa.int64()),
    ]
)
DECISIONS = pa.schema([("decision", pa.uint8())])
ENCODE_BATCH = 1024

Row = dict[str, Any]


class ParseWorker:
    """Parse a range of raw rows into examples and rejected rows."""

    def __init__(self, folder: str, data: Data) -> None:
        self._folder = folder
        self._sources = data.sources

    def __call__(self, unit: ParseUnit) -> ParsedRange:
        source = self._sources[unit.range.source]
        spec, reader = source_spec(source), RangeReader(unit.range)
        parsed: list[Row] = []
        rejected: list[Row] = []
        for raw in reader:
            try:
                parsed.append(_parse(raw, unit.range, source, spec))
            except RejectedRow as error:
                row = {"file": unit.range.file, "line": raw.line, "source": None, "example_id": None}
                rejected.append(_rejected_row(row, error.reason, error.detail[:200]))
        tables = {
            f"work/parsed-{unit.number:05d}.parquet": pa.Table.from_pylist(parsed, schema=PARSED),
            f"work/rejected-{unit.number:05d}.parquet": pa.Table.from_pylist(rejected, schema=REJECTED),
        }
        files = [write_table(self._folder, path, table) for path, table in tables.items()]
        reasons = dict(Counter(row["reason"] for row in rejected))
        result = ParsedRange(len(parsed) + len(rejected), reader.lines, len(parsed), reasons, files)
        return write_receipt(self._folder, unit.receipt, unit.key, result)


def _parse(raw: RawRow, one: Range, source: Source, spec: SourceSpec) -> Row:
    """A row of `PARSED`. Raises `RejectedRow`."""
    if raw.row is None:
        raise RejectedRow(raw.reason or "undecodable", raw.detail)
    if not spec.matches(raw.row):
        raise RejectedRow("filtered", f"not of {source.only}")
    example = _example(raw.row, source)
    name = spec.source_name(raw.row)
    if name is None:
        field = source.source["field"] if source.source else ""
        raise RejectedRow("missing_field", f"no {field} to name the source")
    return {
        "example_id": examples.example_id(example),
        "entry": one.source,
        "source": name,
        "turns": json.dumps([(turn.role, turn.text) for turn in example.turns], ensure_ascii=False),
        "raw": json.dumps(raw.row, ensure_ascii=False, sort_keys=False, separators=(",", ":"), default=str),
        "file": one.file,
        "line": raw.line,
    }


def _example(row: Row, source: Source) -> Example:
    name: str | None = source.format
    fields: dict[str, str] = dict(source.fields)
    if name is None:
        guessed = examples.guess_format(row)
        if guessed is None:
            raise RejectedRow("missing_field", f"no known format has the fields {', '.join(list(row)[:8])}")
        name, fields = guessed[0], {**guessed[1], **fields}
    return examples.FORMATS[name](row, fields)


def filter_pool(folder: str, parsed: Sequence[FileRecord], settings: Row) -> list[FileRecord]:
    """Write one file of decisions a range. Runs in one actor, which holds the ids of all rows."""
    ids, entries = [], []
    for record in track(parsed, "ranges read"):
        table = read_table(folder, record, ["example_id", "entry"])
        ids.append(id_to_words(table["example_id"].to_pylist()))
        entries.append(table["entry"].to_numpy())
    decision_N = filter_rows(np.concatenate(ids), np.concatenate(entries), **settings)
    files, start = [], 0
    for number, part in enumerate(track(ids, "decisions written")):
        decisions = pa.table({"decision": decision_N[start : start + len(part)]}, schema=DECISIONS)
        files.append(write_table(folder, f"work/decisions-{number:05d}.parquet", decisions))
        start += len(part)
    return files


def make_tokenizer(
    name: str, revision: str | None, train: int | None, folder: str, parsed: Sequence[tuple[FileRecord, FileRecord]]
) -> tuple[dict[str, bytes], int]:
    """Files of a tokenizer, and its largest id + 1.

    Loads it from the folder or hub id `name`, or trains it with `train` entries on the kept rows of `parsed`, pairs of
    examples and decisions.
    """
    from s2l_ray.core.data.tokenization import load_tokenizer, train_tokenizer

    tokenizer = load_tokenizer(name, revision) if train is None else train_tokenizer(_kept_texts(folder, parsed), train)
    with tempfile.TemporaryDirectory() as saved:
        tokenizer.save_pretrained(saved)
        files = {path.name: path.read_bytes() for path in Path(saved).iterdir() if path.is_file()}
    return files, max(tokenizer.get_vocab().values()) + 1


def _kept_texts(folder: str, parsed: Sequence[tuple[FileRecord, FileRecord]]) -> Iterator[str]:
    for kept, decisions in track(parsed, "ranges read for the tokenizer"):
        for turns in _split(folder, kept, decisions)[0]["turns"].to_pylist():
            yield from (text for _, text in json.loads(turns))


def _split(folder: str, parsed: FileRecord, decisions: FileRecord) -> tuple[pa.Table, list[Row]]:
    """The kept rows of a range, and the others as rejected rows."""
    decision_N = read_table(folder, decisions)["decision"].to_numpy()
    table = read_table(folder, parsed)
    dropped = table.filter(pa.array(decision_N != KEEP)).to_pylist()
    reasons = [REASONS[int(code)] for code in decision_N[decision_N != KEEP]]
    rejected = [_rejected_row(row, reason, "") for row, reason in zip(dropped, reasons, strict=True)]
    return table.filter(pa.array(decision_N == KEEP)), rejected


class EncodeWorker:
    """Encode a range's kept rows, and collect all its rejected rows with lines counted in the file."""

    def __init__(self, folder: str, data: Data, tokenizer: list[FileRecord]) -> None:
        from s2l_ray.core.data.tokenization import load_tokenizer

        self._folder = folder
        self._data = data
        with cached_files(folder, tokenizer) as local:
            self._tokenizer = load_tokenizer(str(local / "tokenizer"))

    def __call__(self, unit: EncodeUnit) -> EncodedRange:
        parsed, rejected_by_parser = unit.parsed.files
        table, rejected = _split(self._folder, parsed, unit.decisions)
        kept = table.to_pylist()
        rows: list[Row] = []
        truncated = 0
        for start in range(0, len(kept), ENCODE_BATCH):
            for row, encoded in self._encode(kept[start : start + ENCODE_BATCH]):
                too_long = self._data.too_long == "drop" and encoded.full_length > self._data.max_length
                reason = encoded.problem or ("too_long" if too_long else None)
                truncated += reason is None and encoded.full_length > len(encoded.input_ids)
                if reason is None:
                    rows.append(_dataset_row(row, encoded, unit.lines_before))
                else:
                    rejected.append(_rejected_row(row, reason, f"{encoded.full_length} tokens"))
        tables = [read_table(self._folder, rejected_by_parser), pa.Table.from_pylist(rejected, schema=REJECTED)]
        return self._store(unit, pa.Table.from_pylist(rows, schema=DATASET), pa.concat_tables(tables), truncated)

    def _encode(self, rows: list[Row]) -> Iterator[tuple[Row, Encoded]]:
        from s2l_ray.core.data.tokenization import encode_examples

        for row in rows:
            row["example"] = Example(tuple(Turn(role, text) for role, text in json.loads(row["turns"])))
        batch = [row["example"] for row in rows]
        return zip(rows, encode_examples(self._tokenizer, batch, self._data.max_length), strict=True)

    def _store(self, unit: EncodeUnit, rows: pa.Table, rejected: pa.Table, truncated: int) -> EncodedRange:
        line = pa.array(rejected["line"].to_numpy() + unit.lines_before)
        rejected = rejected.set_column(rejected.schema.get_field_index("line"), "line", line).sort_by("line")
        files = [
            write_table(self._folder, f"work/encoded-{unit.number:05d}.parquet", rows),
            write_table(self._folder, f"rejected/range-{unit.number:05d}.parquet", rejected),
        ]
        tokens = token_rows(rows)
        result = EncodedRange(
            read=len(rows) + len(rejected),
            kept=len(rows),
            rejected=dict(Counter(rejected["reason"].to_pylist())),
            statuses=dict(Counter(rows["status"].to_pylist())),
            by_source=dict(Counter(rows["source"].to_pylist())),
            tokens=len(tokens.ids_X),
            target_tokens=int(tokens.target_tokens_N.sum()),
            truncated=truncated,
            longest=int(tokens.lengths_N.max(initial=0)),
            files=files,
        )
        return write_receipt(self._folder, unit.receipt, unit.key, result)


def _dataset_row(row: Row, encoded: Encoded, lines_before: int) -> Row:
    spans = [position for span in encoded.target_spans for position in span]
    return {
        **{name: row[name] for name in ("example_id", "source", "raw", "file")},
        "line": row["line"] + lines_before,
        "prompt": examples.prompt_text(row["example"]),
        "response": examples.response_text(row["example"]),
        "input_ids": encoded.input_ids,
        "target_spans": spans,
        "status": OK if spans else NO_TARGET_TOKENS,
    }


def _rejected_row(row: Row, reason: str, detail: str) -> Row:
    position = {name: row[name] for name in ("file", "line", "source", "example_id")}
    return {**position, "reason": reason, "detail": detail}


class CutWorker:
    """Join slices of encoded ranges into one shard."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __call__(self, unit: CutUnit) -> StoredFiles:
        slices = [read_table(self._folder, record).slice(start, stop - start) for record, start, stop in unit.slices]
        record = write_table(self._folder, unit.name, pa.concat_tables(slices))
        return write_receipt(self._folder, unit.receipt, unit.key, StoredFiles([record]))
