"""What the workers of `prepare` do: parse a range, settle all rows, make the tokenizer, encode a range, cut a shard.

In: units as records. Out: files under the dataset's folder and a receipt each. Workers take plain records and are
called without Ray in tests. Transformers is imported by those that tokenise.
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
from s2l_ray.artifacts.schemas import DATASET, NO_TARGET_TOKENS, OK, REJECTED
from s2l_ray.artifacts.tables import FileRecord, read_table, write_table
from s2l_ray.core.data.deduplication import KEEP, REASONS, filter_rows, id_to_words
from s2l_ray.core.data.examples import (
    FORMATS,
    Example,
    RejectedRow,
    Turn,
    example_id,
    guess_format,
    prompt_text,
    response_text,
)
from s2l_ray.runtime.worker_process import track
from s2l_ray.sources.ranges import Range, SourceSpec, read_range
from s2l_ray.sources.rows import RawRow

FORMED = pa.schema(
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
VERDICTS = pa.schema([("verdict", pa.uint8())])
ENCODE_BATCH = 1024


class ParseWorker:
    """A range of raw rows -> formed rows and bad rows."""

    def __init__(self, folder: str, data: dict[str, Any]) -> None:
        self._folder = folder
        self._sources = data["sources"]

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        one = Range(**unit["range"])
        parser = Parser(one, self._sources[one.source])
        reader = read_range(one)
        for raw in reader:
            parser.add(raw)
        formed = pa.Table.from_pylist(parser.formed, schema=FORMED)
        rejected = pa.Table.from_pylist(parser.rejected, schema=REJECTED)
        files = [
            write_table(self._folder, f"work/formed-{unit['number']:05d}.parquet", formed),
            write_table(self._folder, f"work/bad-{unit['number']:05d}.parquet", rejected),
        ]
        result = {
            "receipt": unit["receipt"],
            "read": parser.read,
            "lines": reader.lines,
            "formed": len(formed),
            "reasons": dict(Counter(row["reason"] for row in parser.rejected)),
        }
        return write_receipt(self._folder, unit["receipt"], unit["facts"], result, files)


class Parser:
    """Rows of one range as they are formed, and those that are set aside."""

    def __init__(self, one: Range, source: dict[str, Any]) -> None:
        self._range = one
        self._source = source
        self._format: str | None = source["format"]
        self._fields: dict[str, str] = dict(source["fields"])
        self.formed: list[dict[str, Any]] = []
        self.rejected: list[dict[str, Any]] = []
        self._spec = SourceSpec(source["path"], source["hub"], source=source["source"], only=source["only"])
        self.read = 0

    def add(self, raw: RawRow) -> None:
        """Form one row, or set it aside."""
        self.read += 1
        try:
            self.formed.append(self._form(raw))
        except RejectedRow as bad:
            place = {"file": self._range.file, "line": raw.line, "source": None, "example_id": None}
            self.rejected.append({**place, "reason": bad.reason, "detail": bad.detail[:200]})

    def _form(self, raw: RawRow) -> dict[str, Any]:
        if raw.row is None:
            raise RejectedRow(raw.reason or "undecodable", raw.detail)
        if not self._spec.matches(raw.row):
            raise RejectedRow("filtered", f"not of {self._source['only']}")
        example = self._example(raw.row)
        return {
            "example_id": example_id(example),
            "entry": self._range.source,
            "source": self._name(raw.row),
            "turns": json.dumps([(turn.role, turn.text) for turn in example.turns], ensure_ascii=False),
            "raw": json.dumps(raw.row, ensure_ascii=False, sort_keys=False, separators=(",", ":"), default=str),
            "file": self._range.file,
            "line": raw.line,
        }

    def _example(self, row: dict[str, Any]) -> Example:
        name, fields = self._format, self._fields
        if name is None:
            guessed = guess_format(row)
            if guessed is None:
                raise RejectedRow("missing_field", f"no known format has the fields {', '.join(list(row)[:8])}")
            name, fields = guessed[0], {**guessed[1], **fields}
        return FORMATS[name](row, fields)

    def _name(self, row: dict[str, Any]) -> str:
        name = self._spec.source_name(row)
        if name is None:
            raise RejectedRow("missing_field", f"no {self._source['source']['field']} to name the source")
        return name


def settle_rows(folder: str, formed: Sequence[dict[str, Any]], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """A verdict for every formed row, in one file a range. Runs in one actor, which holds the ids of all rows."""
    words, entries = [], []
    for record in track(formed, "ranges read for duplicates"):
        table = read_table(folder, FileRecord(**record), ["example_id", "entry"])
        words.append(id_to_words(table["example_id"].to_pylist()))
        entries.append(table["entry"].to_numpy())
    verdict_N = filter_rows(np.concatenate(words), np.concatenate(entries), **settings)
    files, start = [], 0
    for number, part in enumerate(track(words, "verdicts written")):
        verdicts = pa.table({"verdict": verdict_N[start : start + len(part)]}, schema=VERDICTS)
        files.append(vars(write_table(folder, f"work/verdict-{number:05d}.parquet", verdicts)))
        start += len(part)
    return files


def make_tokenizer(
    place: str, revision: str | None, train: int | None, folder: str, pairs: Sequence[tuple[dict[str, Any], Any]]
) -> tuple[dict[str, bytes], int]:
    """The files of a tokenizer, loaded from a folder or the hub or trained on the kept rows; and its largest id + 1."""
    from s2l_ray.core.data.tokenization import load_tokenizer, save_tokenizer, train_tokenizer

    tokenizer = load_tokenizer(place, revision) if train is None else train_tokenizer(_kept_texts(folder, pairs), train)
    with tempfile.TemporaryDirectory() as saved:
        save_tokenizer(tokenizer, saved)
        files = {path.name: path.read_bytes() for path in Path(saved).iterdir() if path.is_file()}
    return files, max(tokenizer.get_vocab().values()) + 1


def _kept_texts(folder: str, pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> Iterator[str]:
    for formed, verdict in track(pairs, "ranges read for the tokenizer"):
        for turns in _kept(folder, formed, verdict)["turns"].to_pylist():
            yield from (text for _, text in json.loads(turns))


def _kept(folder: str, formed: dict[str, Any], verdict: dict[str, Any]) -> pa.Table:
    kept_N = read_table(folder, FileRecord(**verdict))["verdict"].to_numpy() == KEEP
    return read_table(folder, FileRecord(**formed)).filter(pa.array(kept_N))


class EncodeWorker:
    """A range's kept rows -> tokens; and all its rows that were set aside, with lines counted in the file."""

    def __init__(self, folder: str, data: dict[str, Any], tokenizer: list[dict[str, Any]]) -> None:
        from s2l_ray.core.data.tokenization import load_tokenizer

        self._folder = folder
        self._data = data
        with cached_files(folder, [FileRecord(**record) for record in tokenizer]) as held:
            self._tokenizer = load_tokenizer(str(held / "tokenizer"))

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        formed, bad = unit["parsed"]
        kept = _kept(self._folder, formed, unit["verdict"]).to_pylist()
        rows, aside = [], []
        truncated = 0
        for start in range(0, len(kept), ENCODE_BATCH):
            for row, encoded in self._encode(kept[start : start + ENCODE_BATCH]):
                reason = encoded.problem or self._too_long(encoded)
                truncated += reason is None and encoded.full_length > len(encoded.input_ids)
                if reason is None:
                    rows.append(_dataset_row(row, encoded, unit["lines_before"]))
                else:
                    aside.append(_set_aside(row, reason, f"{encoded.full_length} tokens"))
        rejected = pa.concat_tables(
            [
                read_table(self._folder, FileRecord(**bad)),
                self._not_kept(formed, unit["verdict"]),
                pa.Table.from_pylist(aside, schema=REJECTED),
            ]
        )
        return self._finish(unit, pa.Table.from_pylist(rows, schema=DATASET), rejected, truncated)

    def _encode(self, rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Any]]:
        from s2l_ray.core.data.tokenization import encode_examples

        for row in rows:
            row["example"] = Example(tuple(Turn(role, text) for role, text in json.loads(row["turns"])))
        examples = [row["example"] for row in rows]
        return zip(rows, encode_examples(self._tokenizer, examples, self._data["max_length"]), strict=True)

    def _too_long(self, encoded: Any) -> str | None:
        too_long = self._data["too_long"] == "drop" and encoded.full_length > self._data["max_length"]
        return "too_long" if too_long else None

    def _not_kept(self, formed: dict[str, Any], verdict: dict[str, Any]) -> pa.Table:
        verdict_N = read_table(self._folder, FileRecord(**verdict))["verdict"].to_numpy()
        dropped = read_table(self._folder, FileRecord(**formed)).filter(pa.array(verdict_N != KEEP)).to_pylist()
        reasons = [REASONS[int(code)] for code in verdict_N[verdict_N != KEEP]]
        rows = [_set_aside(row, reason, "") for row, reason in zip(dropped, reasons, strict=True)]
        return pa.Table.from_pylist(rows, schema=REJECTED)

    def _finish(self, unit: dict[str, Any], rows: pa.Table, rejected: pa.Table, truncated: int) -> dict[str, Any]:
        line = pa.array(rejected["line"].to_numpy() + unit["lines_before"])
        rejected = rejected.set_column(rejected.schema.get_field_index("line"), "line", line).sort_by("line")
        files = [
            write_table(self._folder, f"work/encoded-{unit['number']:05d}.parquet", rows),
            write_table(self._folder, f"rejected/range-{unit['number']:05d}.parquet", rejected),
        ]
        spans = [np.asarray(spans).reshape(-1, 2) for spans in rows["target_spans"].to_pylist()]
        result = {
            "receipt": unit["receipt"],
            "read": len(rows) + len(rejected),
            "kept": len(rows),
            "reasons": dict(Counter(rejected["reason"].to_pylist())),
            "statuses": dict(Counter(rows["status"].to_pylist())),
            "by_source": dict(Counter(rows["source"].to_pylist())),
            "tokens": sum(len(ids) for ids in rows["input_ids"]),
            "target_tokens": int(sum((one[:, 1] - np.maximum(one[:, 0], 1)).sum() for one in spans)),
            "truncated": truncated,
        }
        return write_receipt(self._folder, unit["receipt"], unit["facts"], result, files)


def _dataset_row(row: dict[str, Any], encoded: Any, lines_before: int) -> dict[str, Any]:
    spans = [position for span in encoded.target_spans for position in span]
    return {
        **{name: row[name] for name in ("example_id", "source", "raw", "file")},
        "line": row["line"] + lines_before,
        "prompt": prompt_text(row["example"]),
        "response": response_text(row["example"]),
        "input_ids": encoded.input_ids,
        "target_spans": spans,
        "status": OK if spans else NO_TARGET_TOKENS,
    }


def _set_aside(row: dict[str, Any], reason: str, detail: str) -> dict[str, Any]:
    place = {name: row[name] for name in ("file", "line", "source", "example_id")}
    return {**place, "reason": reason, "detail": detail}


class CutWorker:
    """Slices of encoded ranges -> one shard."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        slices = [
            read_table(self._folder, FileRecord(**record)).slice(start, stop - start)
            for record, start, stop in unit["slices"]
        ]
        record = write_table(self._folder, unit["path"], pa.concat_tables(slices))
        return write_receipt(self._folder, unit["receipt"], unit["facts"], {"receipt": unit["receipt"]}, [record])
