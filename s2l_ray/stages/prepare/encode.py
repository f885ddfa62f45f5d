"""Make the tokenizer, and encode the rows of a shard into its two files, tokens and text.

Rows are streamed: of a shard, one batch is in memory, which becomes a row group of both files.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from s2l_ray.artifacts.tables import FileRecord, read_table, write_row_groups, write_table
from s2l_ray.config.sections import Data, Source
from s2l_ray.core.data.examples import read_row
from s2l_ray.core.data.segments import ExampleText, chat_texts, pair_text
from s2l_ray.core.data.tokenization import Encoded
from s2l_ray.core.data.turns import answer_id
from s2l_ray.runtime.worker_process import track, working
from s2l_ray.sources.hub import TOKENIZER_FILES, model_folder
from s2l_ray.stages.prepare.filter import read_decisions
from s2l_ray.stages.prepare.parse import IDS, TEXTS
from s2l_ray.stages.prepare.records import EncodedCounts, EncodedShard, EncodeUnit, Piece, PieceSlice, total_encoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Bounds of a row group. The tokenizer's own records take about 30 times the size of a batch's text.
BATCH_ROWS, BATCH_CHARACTERS = 1024, 4 << 20

Row = dict[str, Any]


@dataclass(frozen=True)
class KeptRow:
    """A row of the pool, with one text for each of its examples. line: in its file."""

    example_id: str
    source: str
    file: str
    line: int
    raw: str
    texts: list[ExampleText]


Encodings = list[tuple[KeptRow, ExampleText, Encoded]]


@dataclass(frozen=True)
class TokenizerFiles:
    """Contents of the files of a tokenizer; see `StoredTokenizer`."""

    contents: dict[str, bytes]
    vocab_size: int
    adds_beginning: bool


def load_tokenizer_files(name: str, revision: str | None) -> TokenizerFiles:
    """Files of the tokenizer in the folder `name`, or of that name on the hub at the commit `revision`."""
    from s2l_ray.core.data.tokenization import load_tokenizer

    return _tokenizer_files(load_tokenizer(str(model_folder(name, revision, TOKENIZER_FILES))))


def train_tokenizer_files(vocab_size: int, folder: str, data: Data, slices: Sequence[PieceSlice]) -> TokenizerFiles:
    """Files of a tokenizer of at most `vocab_size` tokens trained on the texts of `slices`."""
    from s2l_ray.core.data.tokenization import train_tokenizer

    rows = (row for one in track(slices, "pieces read for the tokenizer") for row in read_rows(folder, data, one))
    texts = (one.text for row in rows for text in row.texts for one in text.segments)
    with working():
        return _tokenizer_files(train_tokenizer(texts, vocab_size))


def _tokenizer_files(tokenizer: "PreTrainedTokenizerBase") -> TokenizerFiles:
    from s2l_ray.core.data.tokenization import adds_beginning

    with tempfile.TemporaryDirectory() as saved:
        tokenizer.save_pretrained(saved)
        files = {path.name: path.read_bytes() for path in Path(saved).iterdir() if path.is_file()}
    return TokenizerFiles(files, max(tokenizer.get_vocab().values()) + 1, adds_beginning(tokenizer))


def read_rows(folder: str, data: Data, one: PieceSlice, per_answer: bool = False) -> Iterator[KeptRow]:
    """The rows of a slice, in order. per_answer: each answer of a chat is an example."""
    piece, source = one.piece, data.sources[one.piece.source]
    rows = _read_decided(folder, piece, one.decisions, one.first, one.decision)
    for row in rows.slice(one.start, one.stop - one.start).to_pylist():
        line, chat = row.pop("line") + piece.lines_before, row.pop("chat")
        texts = chat_texts(chat, per_answer) if chat else [_pair(json.loads(row["raw"]), source)]
        yield KeptRow(**row, file=piece.file, line=line, texts=texts)


def _pair(row: Row, source: Source) -> ExampleText:
    return pair_text(read_row(row, source.format, source.fields, source.roles).example)


@lru_cache(maxsize=1)  # a piece at the boundary of two shards is read once by the worker of both
def _read_decided(folder: str, piece: Piece, decisions: FileRecord, first: int, decision: int) -> pa.Table:
    own_P = pa.array(read_decisions(folder, decisions, first, piece) == decision)
    columns = [*read_table(folder, piece.ids).columns, *read_table(folder, piece.text).columns]
    return pa.table(columns, names=[*IDS.names, *TEXTS.names]).filter(own_P)


class EncodeWorker:
    """Encode the rows of a shard. per_answer: for each entry of data.sources, whether answers are examples."""

    def __init__(self, folder: str, data: Data, tokenizer: list[FileRecord], per_answer: list[bool]) -> None:
        from s2l_ray.core.data.tokenization import Encoder, load_tokenizer

        self._folder = folder
        self._data = data
        self._per_answer = per_answer
        with cached_files(folder, tokenizer) as local:
            self._encoder = Encoder(load_tokenizer(str(local / "tokenizer")), data.max_length)

    def __call__(self, unit: EncodeUnit) -> EncodedShard:
        rows = (row for one in unit.slices for row in self._read(one))
        counts: list[EncodedCounts] = []
        rejected: list[Row] = []
        with (
            write_row_groups(self._folder, unit.folder + tokens_path(unit.shard), TOKENS) as tokens,
            write_row_groups(self._folder, unit.folder + text_path(unit.shard), TEXT) as text,
        ):
            for batch in batches(rows):
                encoded = self._encode(batch)
                tokens.write(encoded.tokens)
                text.write(encoded.text)
                rejected += encoded.rejected
                counts.append(encoded.counts)
        files = [tokens.record, text.record]
        if rejected:
            table = pa.Table.from_pylist(rejected, schema=REJECTED)
            files.append(write_table(self._folder, f"rejected/{unit.folder}{shard_path(unit.shard)}", table))
        return write_receipt(self._folder, unit.receipt, unit.key, EncodedShard(total_encoded(counts), files))

    def _read(self, one: PieceSlice) -> Iterator[KeptRow]:
        return read_rows(self._folder, self._data, one, self._per_answer[one.piece.source])

    def _encode(self, rows: list[KeptRow]) -> "EncodedBatch":
        """The examples of the rows; a row without one that is short enough is rejected."""
        encoded = iter(self._encoder.encode([text for row in rows for text in row.texts]))
        kept: Encodings = []
        rejected: list[Row] = []
        for row in rows:
            own = [(row, text, next(encoded)) for text in row.texts]
            fitting = [one for one in own if not self._is_too_long(one[2])]
            kept += fitting
            if not fitting:
                rejected.append(_rejected_row(row, "too_long", f"more than {self._data.max_length} tokens"))
        return EncodedBatch(_tokens(kept), _text(kept), rejected, len(rows), _truncated(kept))

    def _is_too_long(self, encoded: Encoded) -> bool:
        return self._data.too_long == "drop" and encoded.full_length > self._data.max_length


@dataclass(frozen=True)
class EncodedBatch:
    """A row group of tokens and of text, and those of its `rows` that were rejected."""

    tokens: pa.Table
    text: pa.Table
    rejected: list[Row]
    rows: int
    truncated: int

    @property
    def counts(self) -> EncodedCounts:
        rows = token_rows(self.tokens)
        return EncodedCounts(
            kept=self.rows - len(self.rejected),
            truncated=self.truncated,
            tokens=len(rows.ids_X),
            target_tokens=int(rows.target_tokens_N.sum()),
            longest=int(rows.lengths_N[rows.target_tokens_N > 0].max(initial=0)),
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
        characters += sum(len(one.text) for text in row.texts for one in text.segments)
        if len(batch) == BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _tokens(kept: Encodings) -> pa.Table:
    spans = [[position for span in encoded.target_spans for position in span] for *_, encoded in kept]
    columns = {
        "example_id": [answer_id(row.example_id, text.answer) for row, text, _ in kept],
        "source": [row.source for row, *_ in kept],
        "status": [OK if one else NO_TARGET_TOKENS for one in spans],
        "input_ids": [encoded.input_ids for *_, encoded in kept],
        "target_spans": spans,
    }
    return pa.table(columns, schema=TOKENS)


def _text(kept: Encodings) -> pa.Table:
    columns = {
        **{name: [getattr(text, name) for _, text, _ in kept] for name in ("prompt", "response", "answer")},
        **{name: [getattr(row, name) for row, *_ in kept] for name in ("raw", "file", "line")},
    }
    return pa.table(columns, schema=TEXT)


def _truncated(kept: Encodings) -> int:
    return sum(encoded.full_length > len(encoded.input_ids) for *_, encoded in kept)


def _rejected_row(row: KeptRow, reason: str, detail: str) -> Row:
    position = {"file": row.file, "line": row.line, "source": row.source, "example_id": row.example_id}
    return {**position, "reason": reason, "detail": detail}
