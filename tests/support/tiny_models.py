"""Checkpoints of tiny models with a tokenizer, in folders, as another program would have saved them."""

from pathlib import Path
from typing import Any

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
