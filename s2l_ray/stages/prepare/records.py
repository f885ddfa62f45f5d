"""Units and results of `prepare`, exchanged between driver and workers and stored in receipts.

Sizes are bounded: a piece holds a few thousand rows, a group of pieces about 250,000, a shard `data.shard_size`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from s2l_ray.artifacts.tables import FileRecord
from s2l_ray.sources.ranges import Range
from s2l_ray.stages.build import total_counts


@dataclass(frozen=True)
class UnitWithReceipt:
    """A unit whose completion is recorded in a receipt at path `receipt`. key: what the unit is made from."""

    name: str
    receipt: str
    key: dict[str, str]


@dataclass(frozen=True)
class ParseUnit(UnitWithReceipt):
    """A range of raw rows."""

    number: int
    range: Range


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of a range: its examples as ids and as text, with equal rows, and its rejected rows, if any.

    source: position of the range's entry in data.sources. lines_before: lines of `file` in earlier ranges.
    """

    source: int
    file: str
    ids: FileRecord
    text: FileRecord
    rejected: FileRecord | None
    lines_before: int = 0

    @property
    def examples(self) -> int:
        return self.ids.rows or 0

    @property
    def files(self) -> list[FileRecord]:
        return [record for record in (self.ids, self.text, self.rejected) if record is not None]


@dataclass(frozen=True)
class ParsedRange:
    """lines: of the file. rejected: rows by reason. unread: rows with text in a column that nothing reads.

    formats: examples by format. converted: rows by a column whose value became text or null, because Python cannot
    represent it. chats: rendered chats; rewritten: those of which later turns change earlier answers; reasoning_lost:
    those whose template leaves out reasoning. contaminated: rows by the file of the evaluation set that they repeat.
    """

    lines: int
    rejected: dict[str, int]
    pieces: list[Piece]
    unread: dict[str, int]
    formats: dict[str, int]
    converted: dict[str, int]
    chats: int
    rewritten: int
    reasoning_lost: int
    contaminated: dict[str, int]

    @property
    def read(self) -> int:
        """Rows of the range: examples and rejected rows."""
        return sum(piece.examples for piece in self.pieces) + sum(self.rejected.values())

    @property
    def files(self) -> list[FileRecord]:
        return [record for piece in self.pieces for record in piece.files]


@dataclass(frozen=True)
class FilteredPool:
    """One file of decisions a group of pieces, and the numbers of kept and of held-out rows of every piece."""

    files: list[FileRecord]
    kept: list[int]
    held_out: list[int]


@dataclass(frozen=True)
class StoredTokenizer:
    """Files of the tokenizer, and its largest id + 1. adds_beginning: it begins a text with its own token for that."""

    vocab_size: int
    adds_beginning: bool
    files: list[FileRecord]


@dataclass(frozen=True)
class RejectUnit(UnitWithReceipt):
    """The rejected rows of a group of pieces."""

    number: int
    pieces: list[Piece]
    decisions: FileRecord


@dataclass(frozen=True)
class RejectedRows:
    """A file of rejected rows, and their number by reason."""

    rejected: dict[str, int]
    files: list[FileRecord]


@dataclass(frozen=True)
class PieceSlice:
    """The rows `start` to `stop` among those of a piece with one decision, KEEP or HELD_OUT.

    first: row of `decisions` of the piece's first example.
    """

    piece: Piece
    decisions: FileRecord
    first: int
    start: int
    stop: int
    decision: int


@dataclass(frozen=True)
class EncodeUnit(UnitWithReceipt):
    """A shard, as slices of pieces. folder: of its files: that of the pool, or HELD_OUT_FOLDER."""

    folder: str
    shard: int
    slices: list[PieceSlice]


@dataclass(frozen=True)
class EncodedCounts:
    """Counts of encoded rows. rejected: rows by reason. truncated: rows cut at `data.max_length`."""

    kept: int
    truncated: int
    tokens: int
    target_tokens: int
    longest: int
    statuses: dict[str, int]
    by_source: dict[str, int]
    rejected: dict[str, int]


@dataclass(frozen=True)
class EncodedShard:
    """files: tokens, text and, where the tokenizer rejected rows, those."""

    counts: EncodedCounts
    files: list[FileRecord]


def total_encoded(parts: Iterable[EncodedCounts]) -> EncodedCounts:
    parts = list(parts)
    return EncodedCounts(
        kept=sum(part.kept for part in parts),
        truncated=sum(part.truncated for part in parts),
        tokens=sum(part.tokens for part in parts),
        target_tokens=sum(part.target_tokens for part in parts),
        longest=max((part.longest for part in parts), default=0),
        statuses=total_counts(part.statuses for part in parts),
        by_source=total_counts(part.by_source for part in parts),
        rejected=total_counts(part.rejected for part in parts),
    )
