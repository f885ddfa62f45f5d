"""A first job file for rows somebody has.

In: a file, a folder or `hub:ID`, and what of the job is already decided. Out: a `Look` at the rows (format, sources,
how many, how long), and the text of a commented job file with defaults for this machine. Nothing is written here.
"""

import posixpath
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2l_ray import storage
from s2l_ray.core.data.examples import FORMATS, Example, RejectedRow, guess_format, prompt_text, response_text
from s2l_ray.errors import ConfigError
from s2l_ray.sources.ranges import SourceSpec, list_ranges, read_range

MOST_ROWS = 100_000
"""More are not read: the job file's defaults need no exact count."""
SHOWN = 3
SOURCE_FIELD = "source"
MOST_SOURCES = 500
CHARACTERS_A_TOKEN = 3
HUB = "hub:"


@dataclass(frozen=True)
class Sample:
    """An example to show, and where it stands."""

    example: Example
    file: str
    line: int


@dataclass(frozen=True)
class Look:
    """What the rows are. `whole` says that all were read, and not only the first 100,000.

    format is None where rows differ: each is then guessed on its own. sources: the values of the field `source`, none
    where rows lack it. long: characters that 99 % of the rows stay below. bad: rows that are no examples, by reason.
    """

    root: str
    spec: SourceSpec
    rows: int
    whole: bool
    format: str | None
    fields: dict[str, str]
    sources: tuple[str, ...]
    long: int
    bad: dict[str, int]
    samples: tuple[Sample, ...]

    @property
    def chat(self) -> bool:
        """Whether the rows are chats, which only a tokenizer with a chat template can write out."""
        return self.samples[0].example.chat


def look_at(place: str) -> Look:
    """Read the first rows. Raises `ConfigError` where nothing is there, or no row of a known format."""
    root, spec = _split(place)
    rows, whole, lengths, samples = 0, True, list[int](), list[Sample]()
    guesses: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()
    bad: Counter[str] = Counter()
    sources: Counter[str | None] = Counter()
    fields_seen: dict[str, None] = {}
    for one in list_ranges([spec], root):
        for raw in read_range(one):
            if rows == MOST_ROWS:
                whole = False
                break
            rows += 1
            try:
                example, guess = _form(raw.row, raw.reason)
            except RejectedRow as error:
                bad[error.reason] += 1
                fields_seen |= dict.fromkeys(raw.row or {})
                continue
            guesses[guess] += 1
            sources[_source(raw.row)] += 1
            lengths.append(len(prompt_text(example)) + len(response_text(example)))
            if len(samples) < SHOWN:
                samples.append(Sample(example, one.file, raw.line))
    if not samples:
        raise ConfigError(_unknown(place, rows, bad, fields_seen))
    format_name, fields = next(iter(guesses)) if len(guesses) == 1 else (None, ())
    named = () if None in sources or len(sources) > MOST_SOURCES else tuple(sorted(map(str, sources)))
    long = sorted(lengths)[len(lengths) * 99 // 100]
    return Look(root, spec, rows, whole, format_name, dict(fields), named, long, dict(bad), tuple(samples))


def has_gpu() -> bool:
    """Whether this machine shows an NVIDIA GPU."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def run_name(look: Look) -> str:
    """A name for the run that the name of the rows suggests."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", look.spec.stem).strip("-._") or "first"


def job_values(look: Look, model: str | None, tokenizer: str | None, gpu: bool) -> dict[str, Any]:
    """The job in plain values: what is said, and for the rest what suits the rows and the machine.

    Raises `ConfigError` for chats without a tokenizer that can write them out.
    """
    tokenizer = tokenizer or model
    if look.chat and tokenizer is None:
        raise ConfigError(
            "the rows are chats, and a tokenizer trained on them has no chat template; name one that has: "
            "--tokenizer HuggingFaceTB/SmolLM2-135M-Instruct (or --model, whose tokenizer is then used)"
        )
    usable = max(1, look.rows - sum(look.bad.values()))
    small = model is None
    most = 32 if small and not gpu else 128
    return {
        "root": f"runs/{run_name(look)}",
        "run": run_name(look),
        "data": {
            "root": look.root,
            "sources": [_source_entry(look)],
            "tokenizer": tokenizer or {"train": {"vocab_size": 2048 if usable < 50_000 else 8192}},
            "max_length": _power_of_two(look.long / CHARACTERS_A_TOKEN, 128, 2048),
            "shard_size": min(8192, _power_of_two(usable / 8, 64, 8192)),
        },
        "proxy": {
            "model": model or _small_model(gpu),
            "epochs": 3,
            "learning_rate": 2e-3 if small else 2e-5,
            "batch_size": min(most, _power_of_two(usable / 32, 1, most)),
            "precision": "bfloat16" if gpu else "float32",
            "checkpoints": {"fraction": 0.1},
        },
        "cluster": {"k": min(100, max(2, usable // 50)), "group_by": "source" if len(look.sources) > 1 else "none"},
        "select": {"method": "s2l", "budget": "10%"},
    }


def _split(place: str) -> tuple[str, SourceSpec]:
    """The folder that holds the rows, which becomes `data.root`, and the source in it."""
    if place.startswith(HUB):
        return ".", SourceSpec(hub=place.removeprefix(HUB), split="train")
    if not storage.exists(place):
        raise ConfigError(f"{place}: nothing there; give a file, a folder, or {HUB}ID for a data set of the hub")
    whole = str(storage.local_path(place).absolute()) if storage.is_local(place) else place.rstrip("/")
    root, name = posixpath.split(whole)
    return root, SourceSpec(path=name)


def _form(row: dict[str, Any] | None, problem: str | None) -> tuple[Example, tuple[str, tuple[tuple[str, str], ...]]]:
    if row is None:
        raise RejectedRow(problem or "undecodable", "")
    guess = guess_format(row)
    if guess is None:
        raise RejectedRow("unknown_format", "")
    return FORMATS[guess[0]](row, guess[1]), (guess[0], tuple(guess[1].items()))


def _source(row: dict[str, Any] | None) -> str | None:
    value = (row or {}).get(SOURCE_FIELD)
    return value if isinstance(value, str) and value else None


def _unknown(place: str, rows: int, bad: Counter[str], fields: dict[str, None]) -> str:
    if not rows:
        return f"{place}: holds no rows"
    if not fields:
        return f"{place}: none of {rows} rows can be read ({', '.join(bad)})"
    return (
        f"{place}: no known format fits; the rows have the fields {', '.join(list(fields)[:12])}. The formats are "
        f"{', '.join(FORMATS)}; write a job by hand and map the names, e.g. "
        "{format: prompt_response, fields: {prompt: ..., response: ...}}"
    )


def _source_entry(look: Look) -> dict[str, Any]:
    spec = look.spec
    entry: dict[str, Any] = {"hub": spec.hub, "split": spec.split} if spec.hub else {"path": spec.path}
    if look.format:
        entry["format"] = look.format
    if look.fields:
        entry["fields"] = look.fields
    if look.sources:
        entry["source"] = {"field": SOURCE_FIELD}
    return entry


def _small_model(gpu: bool) -> dict[str, Any]:
    width, layers, heads = (512, 6, 8) if gpu else (64, 2, 4)
    return {
        "architecture": "gpt_neox",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    }


def _power_of_two(wanted: float, least: int, most: int) -> int:
    """The smallest power of two that is at least `wanted`, within [least, most]."""
    power = least
    while power < wanted and power < most:
        power *= 2
    return power
