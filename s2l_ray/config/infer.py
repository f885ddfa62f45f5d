"""Defaults of a first job file, inferred from the rows and from this machine (`s2l init`)."""

import math
import posixpath
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s2l_ray import storage
from s2l_ray.core.data.examples import FORMATS, Example, RejectedRow, guess_format, prompt_text, response_text
from s2l_ray.errors import ConfigError
from s2l_ray.sources.ranges import RangeReader, SourceSpec, list_ranges
from s2l_ray.sources.rows import RawRow

# The defaults need no exact summary.
MAX_ROWS = 100_000
SAMPLES = 3
SOURCE_FIELD = "source"
MAX_SOURCES = 500
CHARACTERS_PER_TOKEN = 3
HUB = "hub:"

# Name of a format, and its fields as pairs (name in the format, name in the row).
Guess = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class Sample:
    """An example to display, with its position."""

    example: Example
    file: str
    line: int


@dataclass
class DataSummary:
    """Counts over the first `MAX_ROWS` rows. complete: these are all rows.

    lengths: characters of the examples. guesses: formats of the examples. rejected: rows by reason. rejected_fields:
    field names of rejected rows. values: of the field `source`; None for rows that lack it.
    """

    root: str
    spec: SourceSpec
    rows: int = 0
    complete: bool = True
    lengths: list[int] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    guesses: set[Guess] = field(default_factory=set)
    rejected: Counter[str] = field(default_factory=Counter)
    rejected_fields: dict[str, None] = field(default_factory=dict)
    values: set[str | None] = field(default_factory=set)

    def add(self, file: str, raw: RawRow) -> None:
        self.rows += 1
        try:
            example, guess = _example(raw)
        except RejectedRow as error:
            self.rejected[error.reason] += 1
            self.rejected_fields |= dict.fromkeys(raw.row or {})
            return
        self.guesses.add(guess)
        value = (raw.row or {}).get(SOURCE_FIELD)
        self.values.add(value if isinstance(value, str) and value else None)
        self.lengths.append(len(prompt_text(example)) + len(response_text(example)))
        if len(self.samples) < SAMPLES:
            self.samples.append(Sample(example, file, raw.line))

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
        """Whether the rows are chats, which need a tokenizer with a chat template."""
        return self.samples[0].example.chat


def inspect_rows(location: str) -> DataSummary:
    """Read the first rows of a file, a folder or `hub:ID`.

    Raises `ConfigError` if it does not exist, or if no row has a known format.
    """
    summary = DataSummary(*_split(location))
    for file, raw in _read_rows(summary.root, summary.spec):
        if summary.rows == MAX_ROWS:
            summary.complete = False
            break
        summary.add(file, raw)
    if not summary.samples:
        raise ConfigError(_no_examples(location, summary))
    return summary


def has_gpu() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def run_name(summary: DataSummary) -> str:
    """A valid name for the run, from the name of the source."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", summary.spec.stem).strip("-._") or "first"


def job_values(summary: DataSummary, model: str | None, tokenizer: str | None, gpu: bool) -> dict[str, Any]:
    """Values of a job file: the arguments, and defaults that suit the rows and the machine.

    Raises `ConfigError` for chats without a tokenizer.
    """
    tokenizer = tokenizer or model
    if summary.chat and tokenizer is None:
        raise ConfigError(
            "the rows are chats, and a tokenizer trained on them would have no chat template; name one that has: "
            "--tokenizer HuggingFaceTB/SmolLM2-135M-Instruct (or --model, whose tokenizer is then used)"
        )
    valid = max(1, summary.rows - sum(summary.rejected.values()))
    small = model is None
    max_batch = 32 if small and not gpu else 128
    return {
        "root": f"runs/{run_name(summary)}",
        "run": run_name(summary),
        "data": {
            "root": summary.root,
            "sources": [_source_entry(summary)],
            "tokenizer": tokenizer or {"train": {"vocab_size": 2048 if valid < 50_000 else 8192}},
            "max_length": _power_of_two(summary.length_p99 / CHARACTERS_PER_TOKEN, 128, 2048),
            "shard_size": _power_of_two(valid / 8, 64, 8192),
        },
        "proxy": {
            "model": model or _small_model(gpu),
            "epochs": 3,
            "learning_rate": 2e-3 if small else 2e-5,
            "batch_size": _power_of_two(valid / 32, 1, max_batch),
            "precision": "bfloat16" if gpu else "float32",
            "checkpoints": {"fraction": 0.1},
        },
        "cluster": {"k": min(100, max(2, valid // 50)), "group_by": "source" if len(summary.sources) > 1 else "none"},
        "select": {"method": "s2l", "budget": "10%"},
    }


def _split(location: str) -> tuple[str, SourceSpec]:
    """The folder of the rows, which becomes `data.root`, and the source in it."""
    if location.startswith(HUB):
        return ".", SourceSpec(hub=location.removeprefix(HUB), split="train")
    if not storage.exists(location):
        raise ConfigError(f"{location}: does not exist; name a file, a folder, or {HUB}ID for a data set of the hub")
    root, name = posixpath.split(storage.absolute(location).rstrip("/"))
    return root, SourceSpec(path=name)


def _read_rows(root: str, spec: SourceSpec) -> Iterator[tuple[str, RawRow]]:
    for source_range in list_ranges([spec], root):
        for raw in RangeReader(source_range):
            yield source_range.file, raw


def _example(raw: RawRow) -> tuple[Example, Guess]:
    if raw.row is None:
        raise RejectedRow(raw.reason or "undecodable", "")
    guess = guess_format(raw.row)
    if guess is None:
        raise RejectedRow("unknown_format", "")
    return FORMATS[guess[0]](raw.row, guess[1]), (guess[0], tuple(guess[1].items()))


def _no_examples(location: str, summary: DataSummary) -> str:
    if not summary.rows:
        return f"{location}: contains no rows"
    if not summary.rejected_fields:
        return f"{location}: none of {summary.rows} rows can be read ({', '.join(summary.rejected)})"
    fields = ", ".join(list(summary.rejected_fields)[:12])
    return (
        f"{location}: the rows match no known format; their fields are {fields}. "
        f"The formats are {', '.join(FORMATS)}; write a job file by hand and map the names, e.g. "
        "{format: prompt_response, fields: {prompt: ..., response: ...}}"
    )


def _source_entry(summary: DataSummary) -> dict[str, Any]:
    spec = summary.spec
    entry = {"hub": spec.hub, "split": spec.split} if spec.hub else {"path": spec.path}
    source = {"field": SOURCE_FIELD} if summary.sources else None
    optional = {"format": summary.format, "fields": summary.fields, "source": source}
    return {**entry, **{name: value for name, value in optional.items() if value}}


def _small_model(gpu: bool) -> dict[str, Any]:
    width, layers, heads = (512, 6, 8) if gpu else (64, 2, 4)
    return {
        "architecture": "gpt_neox",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    }


def _power_of_two(minimum: float, low: int, high: int) -> int:
    """The smallest power of two in [low, high] that is at least `minimum`, else `high`; low, high: powers of two."""
    return min(max(low, int(2 ** math.ceil(math.log2(minimum)))), high)
