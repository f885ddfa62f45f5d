"""Parse a range of raw rows into pieces: files of bounded size with the examples of consecutive rows.

A range can be a whole gzip file of many gigabytes, so it is never held in memory; its pieces are.
"""

import json
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from s2l_ray import storage
from s2l_ray.artifacts.node_cache import cached_files
from s2l_ray.artifacts.receipts import write_receipt
from s2l_ray.artifacts.schemas import REJECTED
from s2l_ray.artifacts.tables import FileRecord, write_table
from s2l_ray.config.identity import evaluation_specs, source_spec
from s2l_ray.config.sections import Data, Source
from s2l_ray.core.data.decontamination import EvaluationIndex
from s2l_ray.core.data.examples import question_texts, read_row
from s2l_ray.core.data.segments import Segmented, chat_to_json
from s2l_ray.core.data.turns import Example, RejectedRow, example_id, response_text
from s2l_ray.errors import S2LError
from s2l_ray.sources.evaluation import read_questions
from s2l_ray.sources.ranges import Range, RangeReader
from s2l_ray.sources.rows import RawRow
from s2l_ray.stages.prepare.records import ParsedRange, ParseUnit, Piece

IDS = pa.schema([("example_id", pa.string()), ("source", pa.string()), ("line", pa.int64())])
if TYPE_CHECKING:
    from s2l_ray.core.data.chat_template import ChatTemplate

# chat: the rendered chat, null for a pair
TEXTS = pa.schema([("raw", pa.string()), ("chat", pa.string())])
# Rows are Python objects until their piece is written, several times the size of its text.
PIECE_ROWS, PIECE_CHARACTERS = 4096, 16 << 20
# A chat template can put text of the row into its message; more reasons than this are counted together.
MOST_REASONS = 40

Row = dict[str, Any]


class ParseWorker:
    """Parse a range of raw rows into pieces, which are not larger than a shard. tokenizer: files of a named one."""

    def __init__(self, folder: str, data: Data, tokenizer: list[FileRecord]) -> None:
        self._folder = folder
        self._data = data
        self._tokenizer = tokenizer
        self._piece_rows = min(PIECE_ROWS, data.shard_size)
        questions = read_questions(evaluation_specs(data), storage.absolute(data.root))
        self._evaluation = EvaluationIndex(questions) if data.exclude else None

    def __call__(self, unit: ParseUnit) -> ParsedRange:
        source, reader = self._data.sources[unit.range.source], RangeReader(unit.range)
        parser = RowParser(source, unit.range, self._render, self._evaluation)
        pieces = PieceWriter(self._folder, unit, self._piece_rows)
        for raw in reader:
            try:
                pieces.add(parser.parse(raw))
            except RejectedRow as error:
                pieces.reject(raw.line, error)
        pieces.flush()
        counts = parser.counts
        result = ParsedRange(
            lines=reader.lines,
            rejected=dict(pieces.reasons),
            pieces=pieces.written,
            unread=dict(parser.unread),
            formats=dict(parser.formats),
            converted=dict(parser.converted),
            chats=counts["chats"],
            rewritten=counts["rewritten"],
            reasoning_lost=counts["reasoning_lost"],
            contaminated=dict(parser.contaminated),
        )
        return write_receipt(self._folder, unit.receipt, unit.key, result)

    def _render(self, example: Example) -> Segmented:
        from s2l_ray.core.data.chat_answers import render_chat

        text = render_chat(self._template, example)
        if self._data.chat == "whole" and not text.whole:
            raise RejectedRow.by_template("later turns change earlier answers; data.chat: per_answer keeps them")
        return text

    @cached_property
    def _template(self) -> "ChatTemplate":
        from s2l_ray.core.data.chat_template import ChatTemplate
        from s2l_ray.core.data.tokenization import load_tokenizer

        if not self._tokenizer:
            raise S2LError(
                "the rows are chats, and a tokenizer trained on them has no chat template; set data.tokenizer to that "
                "of a chat model, for example HuggingFaceTB/SmolLM2-135M-Instruct"
            )
        with cached_files(self._folder, self._tokenizer) as local:
            return ChatTemplate.of(load_tokenizer(str(local / "tokenizer")), self._data.date)


class RowParser:
    """Parse rows of a source, and count what their parsing reveals."""

    def __init__(
        self, source: Source, one: Range, render: Callable[[Example], Segmented], evaluation: EvaluationIndex | None
    ) -> None:
        self.unread: Counter[str] = Counter()
        self.formats: Counter[str] = Counter()
        self.converted: Counter[str] = Counter()
        self.contaminated: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self._source, self._spec = source, source_spec(source)
        self._range, self._render, self._evaluation = one, render, evaluation

    def parse(self, raw: RawRow) -> Row:
        """A row of `IDS` and `TEXTS`. Raises `RejectedRow`."""
        if raw.row is None:
            raise RejectedRow(raw.reason or "undecodable", raw.detail)
        self.converted.update(raw.converted)
        columns = {**self._range.partitions, **raw.row} if self._range.partitions else raw.row
        if not self._spec.matches(columns):
            raise RejectedRow("filtered", f"not of {self._source.only}")
        row = self._range.without_added_nulls(raw.row)
        read = read_row(row, self._source.format, self._source.fields, self._source.roles)
        name = self._spec.source_name(columns)
        if name is None:
            field = self._source.source["field"] if self._source.source else ""
            raise RejectedRow("missing_field", f"no {field} to name the source")
        self._refuse_contaminated(read.example)
        chat = self._chat(read.example) if read.example.chat else None
        self.formats[read.format] += 1
        self.unread.update(column for column in read.unread if column not in self._spec.columns)
        text = raw.text or json.dumps(raw.row, ensure_ascii=False, separators=(",", ":"))
        return {"example_id": example_id(read.example), "source": name, "line": raw.line, "raw": text, "chat": chat}

    def _refuse_contaminated(self, example: Example) -> None:
        if self._evaluation is None:
            return
        overlap = self._evaluation.find(question_texts(example), response_text(example))
        if overlap is not None:
            self.contaminated[overlap.file] += 1
            raise RejectedRow("contaminated", str(overlap))

    def _chat(self, example: Example) -> str:
        text = self._render(example)
        self.counts.update(chats=1, rewritten=not text.whole, reasoning_lost=text.reasoning_lost)
        return chat_to_json(example, text)


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
        self._characters += len(row["raw"]) + len(row["chat"] or "")
        self._flush_if_full()

    def reject(self, line: int, error: RejectedRow) -> None:
        reason = error.reason
        if reason not in self.reasons and len(self.reasons) >= MOST_REASONS:
            reason = f"{reason.partition(':')[0]}: other messages"
        row = {"file": self._unit.range.file, "line": line, "source": None, "example_id": None}
        self._rejected.append({**row, "reason": reason, "detail": error.detail[:200]})
        self.reasons[reason] += 1
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

    def _write(self, name: str, rows: list[Row], schema: pa.Schema) -> FileRecord:
        path = f"work/{name}-{self._unit.number:05d}-{len(self.written):05d}.parquet"
        return write_table(self._folder, path, pa.Table.from_pylist(rows, schema=schema))
