"""Summary of the first rows of a source: what is read, learned and rejected, before anything is built."""

import datetime
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray import storage
from s2l_ray.config.identity import local_folder, source_spec
from s2l_ray.config.sections import Config, Source
from s2l_ray.core.data.columns import unread_columns
from s2l_ray.core.data.examples import ReadRow, read_row
from s2l_ray.core.data.segments import Segmented
from s2l_ray.core.data.turns import Example, RejectedRow, Row, prompt_text, response_text
from s2l_ray.errors import ConfigError
from s2l_ray.sources.files.listing import skipped_files
from s2l_ray.sources.ranges import Range, RangeReader, list_ranges
from s2l_ray.sources.rows import FILE_BROKEN, RawRow
from s2l_ray.sources.spec import SourceSpec

if TYPE_CHECKING:
    from s2l_ray.core.data.chat_template import ChatTemplate

# Rows that `init` and `plan` read; the defaults need no exact summary. Rendering is slow: fewer chats are rendered.
MAX_ROWS = 100_000
PLANNED_ROWS, LEAST_PLANNED_ROWS = 2_000, 100
MAX_RENDERED = 2_000
SAMPLES = 3
# The share of rejected rows from which on a reason is a warning, and reasons that the job asks for.
WARNING_SHARE, INTENDED = 0.05, ("filtered",)
SOURCE_FIELD = "source"
MAX_SOURCES = 500

# Name of a format, and its fields as pairs (name in the format, name in the row).
Guess = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class Sample:
    """An example to display, with its position. text: the chat as its template renders it, if it was rendered."""

    example: Example
    file: str
    line: int
    text: Segmented | None = None


@dataclass
class DataSummary:
    """Counts over the first rows of a source. complete: these are all rows.

    source: the keys of the job for reading rows; format None guesses it for each row. template: renders the chats.
    lengths: characters of the examples. guesses: formats of rows. rejected: rows by reason. rejected_fields: their
    field names. values: rows by source (without `source`, by the field of that name), None where a row has none.
    unread: rows with text in a column that nothing reads. converted: rows by a column whose value became text or null,
    because Python cannot represent it. rendered: rendered chats; rewritten: those of which later turns change earlier
    answers; reasoning_lost: those whose template leaves out reasoning.
    """

    root: str
    spec: SourceSpec
    source: Source | None = None
    template: "ChatTemplate | None" = None
    rows: int = 0
    complete: bool = True
    lengths: list[int] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    guesses: set[Guess] = field(default_factory=set)
    rejected: Counter[str] = field(default_factory=Counter)
    rejected_fields: dict[str, None] = field(default_factory=dict)
    values: Counter[str | None] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    converted: Counter[str] = field(default_factory=Counter)
    rendered: int = 0
    rewritten: int = 0
    reasoning_lost: int = 0

    def add(self, one: Range, raw: RawRow) -> None:
        """Count a row of a range."""
        self.rows += 1
        self.converted.update(raw.converted)
        try:
            if raw.row is None:
                raise RejectedRow(raw.reason or "undecodable", "")
            columns = {**one.partitions, **raw.row}
            if not self.spec.matches(columns):
                raise RejectedRow("filtered", "")
            read = self._read(one.without_added_nulls(raw.row))
            name = self._source_name(columns)
            if name is None and self.source is not None:
                raise RejectedRow("missing_field", "")
            self.guesses.add((read.format, tuple(read.fields.items())))
            self.values[name] += 1
            text = self._render(read.example)
        except RejectedRow as error:
            self.rejected[error.reason] += 1
            self.rejected_fields |= dict.fromkeys(raw.row or {})
            return
        self.unread.update(name for name in read.unread if name not in self.spec.columns)
        self.lengths.append(len(prompt_text(read.example)) + len(response_text(read.example)))
        if len(self.samples) < SAMPLES:
            self.samples.append(Sample(read.example, one.file, raw.line, text))

    def _read(self, row: Row) -> ReadRow:
        if self.source is None:
            return read_row(row, None, {})
        return read_row(row, self.source.format, self.source.fields, self.source.roles)

    def _source_name(self, row: Row) -> str | None:
        return self.spec.source_name(row) if self.source else self.spec.field_value(row, SOURCE_FIELD)

    def _render(self, example: Example) -> Segmented | None:
        if self.template is None or not example.chat or self.rendered >= MAX_RENDERED:
            return None
        from s2l_ray.core.data.chat_answers import render_chat

        self.rendered += 1
        text = render_chat(self.template, example)
        self.rewritten += not text.whole
        self.reasoning_lost += text.reasoning_lost
        return text

    @property
    def format(self) -> str | None:
        """The format of all rows; None if it differs from row to row."""
        return next(iter(self.guesses))[0] if len(self.guesses) == 1 else None

    @property
    def fields(self) -> dict[str, str]:
        """Names in the format to names in the row, if all rows have one format."""
        return dict(next(iter(self.guesses))[1]) if len(self.guesses) == 1 else {}

    @property
    def sources(self) -> list[str]:
        """Values of the field `source`; empty if rows lack it or there are too many."""
        return [] if None in self.values or len(self.values) > MAX_SOURCES else sorted(map(str, self.values))

    @property
    def length_p99(self) -> int:
        """99th percentile of the length in characters."""
        return sorted(self.lengths)[len(self.lengths) * 99 // 100]

    @property
    def chat(self) -> bool:
        """Whether rows are chats, which need a tokenizer with a chat template."""
        return any(sample.example.chat for sample in self.samples)

    @property
    def unread_columns(self) -> dict[str, int]:
        """Columns that hold text in many rows and that nothing reads."""
        return unread_columns(self.unread, len(self.lengths))

    @property
    def skipped_files(self) -> list[str]:
        """Lines about files of the folder that are not read."""
        return list(skipped_files(self.spec, self.root))

    def counts(self) -> dict[str, object]:
        """Plain values for scripts."""
        return {
            "source": self.spec.path or self.spec.hub,
            "rows": self.rows,
            "complete": self.complete,
            "format": self.format,
            "rejected": dict(self.rejected),
            "unread_columns": self.unread_columns,
            "skipped_files": self.skipped_files,
            "chats": {name: getattr(self, name) for name in ("rendered", "rewritten", "reasoning_lost")},
        }


def frequent_rejections(rejected: Mapping[str, int], rows: int) -> Iterator[str]:
    """A line for each reason that rejects many of the rows, without those that the job asks for, and for damaged files.

    A damaged file is one rejected row, whatever the number of rows after the damage.
    """
    for reason, count in Counter(rejected).most_common():
        if reason == FILE_BROKEN:
            yield f"{count:,} files or row groups are not read to their end: {reason}; repair them, or remove them"
        elif reason not in INTENDED and count > WARNING_SHARE * rows:
            yield f"{100 * count / rows:.0f} % of the rows ({count:,} of {rows:,}) are rejected: {reason}"


def converted_lines(converted: Mapping[str, int]) -> Iterator[str]:
    """A line for each column with values that Python cannot represent."""
    for column, rows in converted.items():
        yield f"{column}: values that Python cannot represent became text or null in {rows:,} rows"


def summarise(summary: DataSummary, most: int) -> DataSummary:
    """Add the first `most` rows of its source to a summary."""
    for one, raw in _read_rows(summary.root, summary.spec):
        if summary.rows == most:
            summary.complete = False
            break
        summary.add(one, raw)
    return summary


def summarise_sources(config: Config) -> list[DataSummary]:
    """A summary of the first rows of each source that is a file, without a download.

    Chats are rendered if the tokenizer is a folder.
    """
    sources = [source for source in config.data.sources if source.hub is None]
    if not sources:
        return []
    root, template = storage.absolute(config.data.root), job_template(config)
    most = max(LEAST_PLANNED_ROWS, PLANNED_ROWS // len(sources))
    return [summarise(DataSummary(root, source_spec(source), source, template), most) for source in sources]


def check_chat_template(config: Config, summaries: Sequence[DataSummary]) -> None:
    """Raise `ConfigError` for chats with a tokenizer that is known to have no chat template."""
    tokenizer = config.data.tokenizer
    if not any(summary.chat for summary in summaries) or job_template(config) is not None:
        return
    if not isinstance(tokenizer, str) or local_folder(config, tokenizer, "data.tokenizer") is not None:
        raise ConfigError(
            "data.tokenizer: the rows are chats and this tokenizer has no chat template; set it to the tokenizer of a "
            "chat model, for example HuggingFaceTB/SmolLM2-135M-Instruct",
            page="docs/data.md#what-is-learned",
        )


def job_template(config: Config) -> "ChatTemplate | None":
    """The chat template of a job's tokenizer; None if it has none or is not a local folder."""
    tokenizer = config.data.tokenizer
    if not isinstance(tokenizer, str):
        return None
    folder = local_folder(config, tokenizer, "data.tokenizer")
    return folder_template(folder, config.data.date) if folder is not None else None


def folder_template(folder: Path, date: datetime.date) -> "ChatTemplate | None":
    """The chat template in the folder of a tokenizer; None if there is none."""
    if not (folder / "tokenizer.json").is_file():
        return None
    from s2l_ray.core.data.chat_template import read_template

    return read_template(folder, date)


def _read_rows(root: str, spec: SourceSpec) -> Iterator[tuple[Range, RawRow]]:
    for one in list_ranges([spec], root):
        for raw in RangeReader(one):
            yield one, raw
