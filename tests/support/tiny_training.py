"""A tiny training job, and a driver process for tests to kill: `python tiny_training.py FOLDER`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from s2l_ray.artifacts.execution import Execution, PrepareExecution
from s2l_ray.artifacts.facts import Counts, DatasetFacts
from s2l_ray.artifacts.manifest import Manifest, write_manifest
from s2l_ray.artifacts.schemas import HELD_OUT_FOLDER, TOKENS, tokens_path
from s2l_ray.artifacts.tables import record_of, write_table
from s2l_ray.core.training.schedule import CheckpointGrid, FinetuneSettings
from s2l_ray.runtime.training.job import TrainJob, TrainWorkers

VOCAB = 60
NEOX = {
    "architecture": "gpt_neox",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
SETTINGS = FinetuneSettings(
    epochs=8,
    batch_size=8,
    learning_rate=3e-3,
    warmup_ratio=0.03,
    weight_decay=0.0,
    max_grad_norm=1.0,
    precision="float32",
    grid=CheckpointGrid(steps=30, epoch_ends=True),
    seed=1,
    micro_batch=4,
)
SHARDS, SHARD_ROWS, HELD_OUT_ROWS = 2, 64, 9


def make_job(folder: Path, name: str = "checkpoints", **changes: object) -> TrainJob:
    """A job on a dataset in `folder`, in which one row of eight has no target; `changes`: fields of its settings."""
    dataset = folder / "dataset"
    if not dataset.exists():
        _make_dataset(str(dataset))
    settings = dataclasses.replace(SETTINGS, **changes)
    rows_ok = SHARDS * SHARD_ROWS * 7 // 8
    return TrainJob(str(folder / name), str(dataset), rows_ok, NEOX, settings, vocab_size=VOCAB)


def long_job(folder: Path) -> TrainJob:
    """A job of 650 steps that saves a state three times a second."""
    job = make_job(folder, epochs=50, grid=CheckpointGrid(fraction=0.04))
    return dataclasses.replace(job, save_minutes=0.005)


def _make_dataset(uri: str) -> None:
    rng = np.random.default_rng(0)
    files = [write_table(uri, tokens_path(shard), _shard(rng, SHARD_ROWS)) for shard in range(SHARDS)]
    files.append(write_table(uri, HELD_OUT_FOLDER + tokens_path(0), _shard(rng, HELD_OUT_ROWS)))
    save_tokenizer(Path(uri) / "tokenizer")
    for path in sorted(Path(uri, "tokenizer").iterdir()):
        files.append(record_of(f"tokenizer/{path.name}", path.read_bytes()))
    facts = DatasetFacts({}, {}, 0, 0, 0, 0, SHARDS, VOCAB)
    execution = Execution(PrepareExecution(1 << 20), {})
    write_manifest(uri, Manifest("dataset", 1, "0" * 12, {}, {}, {}, execution, files, Counts(), facts))


def save_tokenizer(folder: Path) -> None:
    """A tokenizer of two tokens, both of which are in the vocabulary of the models."""
    words = Tokenizer(WordLevel({"<pad>": 0, "<end>": 1}, unk_token="<pad>"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>").save_pretrained(folder)


def _shard(rng: np.random.Generator, rows: int) -> pa.Table:
    lengths = rng.integers(5, 40, rows)
    ids = [((rng.integers(VOCAB) + np.arange(length)) % VOCAB).tolist() for length in lengths]
    empty = [row % 8 == 0 for row in range(rows)]
    texts = {name: [""] * rows for name in ("example_id", "source")}
    columns = {
        **texts,
        "input_ids": ids,
        "target_spans": [[] if none else [2, len(row)] for row, none in zip(ids, empty, strict=True)],
        "status": ["no_target_tokens" if none else "ok" for none in empty],
    }
    return pa.table(columns, schema=TOKENS)


if __name__ == "__main__":
    from s2l_ray.runtime.session import connect
    from s2l_ray.runtime.training.trainer import run_training

    with connect():
        run_training(long_job(Path(sys.argv[1])), TrainWorkers(), lambda progress: print(progress.done, flush=True))
