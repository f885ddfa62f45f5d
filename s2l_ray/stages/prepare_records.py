"""Units and results of `prepare`, exchanged between driver and workers and stored in receipts."""

from dataclasses import dataclass

from s2l_ray.artifacts.tables import FileRecord
from s2l_ray.sources.ranges import Range


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
class ParsedRange:
    """Rows read, lines of the file, rows that became examples, rejected rows by reason; files: examples, rejected."""

    read: int
    lines: int
    examples: int
    rejected: dict[str, int]
    files: list[FileRecord]


@dataclass(frozen=True)
class StoredFiles:
    """One file of decisions (kept, duplicate, not sampled, ...) a range, or the file of a shard."""

    files: list[FileRecord]


@dataclass(frozen=True)
class StoredTokenizer:
    """Files of the tokenizer, and its largest id + 1."""

    vocab_size: int
    files: list[FileRecord]


@dataclass(frozen=True)
class EncodeUnit(UnitWithReceipt):
    """The kept rows of a parsed range. lines_before: lines of the file in earlier ranges."""

    number: int
    parsed: ParsedRange
    decisions: FileRecord
    lines_before: int


@dataclass(frozen=True)
class EncodedRange:
    """Counts of an encoded range; `rejected` over all its rows. files: examples, rejected rows."""

    read: int
    kept: int
    rejected: dict[str, int]
    statuses: dict[str, int]
    by_source: dict[str, int]
    tokens: int
    target_tokens: int
    truncated: int
    longest: int
    files: list[FileRecord]


@dataclass(frozen=True)
class CutUnit(UnitWithReceipt):
    """A shard, named by its path, as slices (file, start, stop) of encoded ranges."""

    slices: list[tuple[FileRecord, int, int]]
