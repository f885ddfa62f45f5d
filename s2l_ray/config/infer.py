"""Defaults of a first job file, inferred from the rows and from this machine (`s2l init`)."""

import datetime
import math
import posixpath
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2l_ray import storage
from s2l_ray.config import row_summary
from s2l_ray.config.row_summary import SOURCE_FIELD, DataSummary, folder_template, summarise
from s2l_ray.core.data.examples import FORMATS
from s2l_ray.errors import ConfigError
from s2l_ray.sources.hub import find_commit
from s2l_ray.sources.spec import SourceSpec

if TYPE_CHECKING:
    from s2l_ray.core.data.chat_template import ChatTemplate

CHARACTERS_PER_TOKEN = 3
HUB = "hub:"


def inspect_rows(location: str, template: "ChatTemplate | None" = None) -> DataSummary:
    """Read the first rows of a file, a folder or `hub:ID`, and render chats with `template`.

    Raises `ConfigError` if it does not exist, or if no row has a known format.
    """
    summary = summarise(DataSummary(*_split(location), template=template), row_summary.MAX_ROWS)
    if not summary.samples:
        raise ConfigError(_no_examples(location, summary), page="docs/data.md#rows")
    return summary


def named_template(tokenizer: str | None) -> "ChatTemplate | None":
    """The chat template of a tokenizer in a local folder, with the date of today; None for others."""
    folder = Path(tokenizer or "").expanduser()
    return folder_template(folder, datetime.date.today()) if tokenizer and folder.is_dir() else None


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
            "--tokenizer HuggingFaceTB/SmolLM2-135M-Instruct (or --model, whose tokenizer is then used)",
            page="docs/data.md#what-is-learned",
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
            **({"date": datetime.date.today().isoformat()} if summary.chat else {}),
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
        return ".", _hub_source(location.removeprefix(HUB))
    if not storage.exists(location):
        raise ConfigError(f"{location}: does not exist; name a file, a folder, or {HUB}ID for a data set of the hub")
    root, name = posixpath.split(storage.absolute(location).rstrip("/"))
    return root, SourceSpec(path=name)


def _hub_source(name: str) -> SourceSpec:
    commit = find_commit("dataset", name, None)
    if commit is None:
        raise ConfigError(f"{HUB}{name}: the hub cannot be reached; try again with a network")
    return SourceSpec(hub=name, revision=commit, split="train")


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
