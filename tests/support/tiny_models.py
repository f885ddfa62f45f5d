"""Checkpoints of tiny models with a tokenizer, in folders, as another program would have saved them."""

import json
from pathlib import Path
from typing import Any

from s2l_ray.config.load import make_config
from s2l_ray.config.sections import Config
from s2l_ray.core.causal_lm import init_model, save_model
from s2l_ray.core.data.tokenization import train_tokenizer

NEOX: dict[str, Any] = {
    "architecture": "gpt_neox",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
VOCAB = 300


def save_tokenizer(folder: Path, text: str = "a tiny tokenizer for tiny models") -> Path:
    """A byte-level tokenizer of at most `VOCAB` tokens, trained on one text."""
    train_tokenizer([text], VOCAB).save_pretrained(folder)
    return folder


def save_checkpoint(folder: Path, seed: int, tokenizer: Path | None = None, **changes: Any) -> Path:
    """A randomly initialised model; `changes` are fields of its config. Other seeds are other weights."""
    vocab = changes.pop("vocab_size", VOCAB)
    save_model(init_model({**NEOX, **changes}, vocab, seed), folder)
    if tokenizer is not None:
        for file in tokenizer.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


STEPS = (0, 5, 9)


def write_rows(path: Path, rows: int, topic: str = "Question") -> Path:
    """Rows that differ from those of another topic."""
    lines = [json.dumps({"prompt": f"{topic} {number}?", "response": f"{number}."}) for number in range(rows)]
    path.write_text("\n".join(lines))
    return path


def write_models(folder: Path) -> Path:
    """Twelve rows, a tokenizer, and models at three steps. Returns the folder."""
    write_rows(folder / "rows.jsonl", 12)
    tokenizer = save_tokenizer(folder / "tokenizer")
    for step in STEPS:
        save_checkpoint(folder / f"step{step}", step, tokenizer)
    return folder


def imported_job(root: Path, models: Path, checkpoints: object = None, **sections: Any) -> Config:
    """A job over what `write_models` wrote, in shards of five rows; `sections` update its own."""
    values: dict[str, Any] = {
        "root": str(root),
        "run": "imported",
        "data": {
            "root": str(models),
            "sources": [{"path": "rows.jsonl"}],
            "tokenizer": "tokenizer",
            "shard_size": 5,
            "max_length": 48,
        },
        "proxy": {"checkpoints_from": checkpoints or [{"path": f"step{step}", "step": step} for step in STEPS]},
        "select": {"budget": 5},
    }
    for name, own in sections.items():
        values[name] = {**values.get(name, {}), **own}
    return make_config(values, "test")
