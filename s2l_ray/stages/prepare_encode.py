"""Make the tokenizer, and encode the rows of a shard into its two files, tokens and text.

Rows are streamed: of a shard, one batch is in memory, which becomes a row group of both files.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from s2l_ray.artifacts.node_cache import cached_files
from s2l_ray.artifacts.receipts import write_receipt
from s2l_ray.artifacts.schemas import (
    NO_TARGET_TOKENS,
    OK,
    REJECTED,
    TEXT,
    TOKENS,
    shard_path,
    text_path,
    token_rows,
    tokens_path,
)
from s2l_ray.artifacts.tables import FileRecord, TableWriter, read_table, write_table
from s2l_ray.config.sections import Data
from s2l_ray.core.data.deduplication import KEEP
from s2l_ray.core.data.examples import Example, prompt_text, response_text
from s2l_ray.core.data.tokenization import Encoded
from s2l_ray.runtime.worker_process import track
from s2l_ray.stages.prepare_filter import read_decisions
from s2l_ray.stages.prepare_parse import read_example
from s2l_ray.stages.prepare_records import EncodedCounts, EncodedShard, EncodeUnit, PieceSlice, total_encoded

# Bounds of a row group. The tokenizer's own records take about 30 times the size of a batch's text.
BATCH_ROWS, BATCH_CHARACTERS = 1024, 4 << 20

Row = dict[str, Any]


@dataclass(frozen=True)
class KeptRow:
    """A row of the pool. line: in its file."""

    example_id: str
    source: str
    file: str
    line: int
    raw: str
    example: Example


def make_tokenizer(
    name: str, revision: str | None, train: int | None, folder: str, data: Data, slices: Sequence[PieceSlice]
) -> tuple[dict[str, bytes], int]:
    """Files of a tokenizer, and its largest id + 1.

    Loads it from the folder or hub id `name`, or trains it with `train` entries on the texts of `slices`.
    """
    from s2l_ray.core.data.tokenization import load_tokenizer, train_tokenizer

    if train is None:
        tokenizer = load_tokenizer(name, revision)
    else:
        rows = (row for one in track(slices, "pieces read for the tokenizer") for row in read_rows(folder, data, one))
        tokenizer = train_tokenizer((turn.text for row in rows for turn in row.example.turns), train)
    with tempfile.TemporaryDirectory() as saved:
        tokenizer.save_pretrained(saved)
        files = {path.name: path.read_bytes() for path in Path(saved).iterdir() if path.is_file()}
    return files, max(tokenizer.get_vocab().values()) + 1


def read_rows(folder: str, data: Data, one: PieceSlice) -> Iterator[KeptRow]:
    """The kept rows of a slice, in order."""
    piece, source = one.piece, data.sources[one.piece.source]
    kept_P = pa.array(read_decisions(folder, one.decisions, one.first, piece) == KEEP)
    columns = [*read_table(folder, piece.ids).columns, *read_table(folder, piece.text).columns]
    kept = pa.table(columns, names=["example_id", "source", "line", "raw"]).filter(kept_P)
    for row in kept.slice(one.start, one.stop - one.start).to_pylist():
        line = row.pop("line") + piece.lines_before
        yield KeptRow(**row, file=piece.file, line=line, example=read_example(json.loads(row["raw"]), source))


class EncodeWorker:
    """Encode the rows of a shard."""

    def __init__(self, folder: str, data: Data, tokenizer: list[FileRecord]) -> None:
        from s2l_ray.core.data.tokenization import load_tokenizer

        self._folder = folder
        self._data = data
        with cached_files(folder, tokenizer) as local:
            self._tokenizer = load_tokenizer(str(local / "tokenizer"))

    def __call__(self, unit: EncodeUnit) -> EncodedShard:
        rows = (row for one in unit.slices for row in read_rows(self._folder, self._data, one))
        counts: list[EncodedCounts] = []
        rejected: list[Row] = []
        with (
            TableWriter(self._folder, tokens_path(unit.shard), TOKENS) as tokens,
            TableWriter(self._folder, text_path(unit.shard), TEXT) as text,
        ):
            for batch in batches(rows):
                encoded = self._encode(batch)
                tokens.write(encoded.tokens)
                text.write(encoded.text)
                rejected += encoded.rejected
                counts.append(encoded.counts)
            files = [tokens.finish(), text.finish()]
        if rejected:
            table = pa.Table.from_pylist(rejected, schema=REJECTED)
            files.append(write_table(self._folder, f"rejected/{shard_path(unit.shard)}", table))
        return write_receipt(self._folder, unit.receipt, unit.key, EncodedShard(total_encoded(counts), files))

    def _encode(self, rows: list[KeptRow]) -> "EncodedBatch":
        from s2l_ray.core.data.tokenization import encode_examples

        encoded = encode_examples(self._tokenizer, [row.example for row in rows], self._data.max_length)
        kept: list[tuple[KeptRow, Encoded]] = []
        rejected: list[Row] = []
        for row, one in zip(rows, encoded, strict=True):
            too_long = self._data.too_long == "drop" and one.full_length > self._data.max_length
            reason = one.problem or ("too_long" if too_long else None)
            if reason is None:
                kept.append((row, one))
            else:
                rejected.append(_rejected_row(row, reason, one))
        truncated = sum(one.full_length > len(one.input_ids) for _, one in kept)
        return EncodedBatch(_tokens(kept), _text([row for row, _ in kept]), rejected, truncated)


@dataclass(frozen=True)
class EncodedBatch:
    """A row group of tokens and of text, and the rows that the tokenizer rejected."""

    tokens: pa.Table
    text: pa.Table
    rejected: list[Row]
    truncated: int

    @property
    def counts(self) -> EncodedCounts:
        rows = token_rows(self.tokens)
        return EncodedCounts(
            kept=len(rows),
            truncated=self.truncated,
            tokens=len(rows.ids_X),
            target_tokens=int(rows.target_tokens_N.sum()),
            longest=int(rows.lengths_N.max(initial=0)),
            statuses=dict(Counter(self.tokens["status"].to_pylist())),
            by_source=dict(Counter(self.tokens["source"].to_pylist())),
            rejected=dict(Counter(row["reason"] for row in self.rejected)),
        )


def batches(rows: Iterable[KeptRow]) -> Iterator[list[KeptRow]]:
    """Batches of bounded size. Their boundaries depend on the rows only, not on the pieces they come from."""
    batch: list[KeptRow] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += len(row.raw)
        if len(batch) == BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _tokens(kept: list[tuple[KeptRow, Encoded]]) -> pa.Table:
    spans = [[position for span in encoded.target_spans for position in span] for _, encoded in kept]
    columns = {
        "example_id": [row.example_id for row, _ in kept],
        "source": [row.source for row, _ in kept],
        "status": [OK if one else NO_TARGET_TOKENS for one in spans],
        "input_ids": [encoded.input_ids for _, encoded in kept],
        "target_spans": spans,
    }
    return pa.table(columns, schema=TOKENS)


def _text(kept: list[KeptRow]) -> pa.Table:
    columns = {
        "prompt": [prompt_text(row.example) for row in kept],
        "response": [response_text(row.example) for row in kept],
        **{name: [getattr(row, name) for row in kept] for name in ("raw", "file", "line")},
    }
    return pa.table(columns, schema=TEXT)


def _rejected_row(row: KeptRow, reason: str, encoded: Encoded) -> Row:
    position = {"file": row.file, "line": row.line, "source": row.source, "example_id": row.example_id}
    return {**position, "reason": reason, "detail": f"{encoded.full_length} tokens"}
