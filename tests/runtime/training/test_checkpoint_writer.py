"""Checkpoints and states in storage: complete or not there. No Ray."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from s2l_ray.core.causal_lm import init_model, load_model
from s2l_ray.core.scoring.packed_check import AttentionChoice
from s2l_ray.core.training.records import CheckpointRecord
from s2l_ray.core.training.state import History, TrainingState
from s2l_ray.runtime.training.checkpoint_writer import CheckpointWriter, put_tables, read_state, write_state
from s2l_ray.runtime.training.store import newest_state, prune_states, read_checkpoint
from tests.support.tiny_training import NEOX, VOCAB

RECORD = CheckpointRecord(30, 0.5, 240, 1e-3, 2.5, 2.75)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    return folder


ATTENTION = AttentionChoice("packed", "agrees with the padded gradient", 1e-7)


def put(output: Path, tokenizer: Path, seed: int, record: CheckpointRecord = RECORD) -> dict[str, tuple[int, bytes]]:
    """Store a checkpoint with a new writer. Returns the stored files with their modification times."""
    model = init_model(NEOX, VOCAB, seed)
    writer = CheckpointWriter(str(output), model, tokenizer)
    writer.set_training_attention(ATTENTION)
    writer.put(record, {name: tensor.clone() for name, tensor in model.state_dict().items()})
    torch.nn.init.zeros_(model.get_input_embeddings().weight)  # training continues during the upload
    writer.flush()
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (output / "step-000030").iterdir()}


def test_a_stored_checkpoint_equals_the_model_and_has_its_record(tmp_path: Path, tokenizer: Path) -> None:
    files = put(tmp_path / "out", tokenizer, seed=0)
    loaded, expected = load_model(tmp_path / "out/step-000030"), init_model(NEOX, VOCAB, 0)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), expected.parameters(), strict=True))
    stored = read_checkpoint(str(tmp_path / "out"), 30)
    assert {file.path for file in stored.files} == {f"step-000030/{name}" for name in files}
    assert dataclasses.asdict(stored.record) == dataclasses.asdict(RECORD)
    assert json.loads(files["checkpoint.json"][1])["attention"] == dataclasses.asdict(ATTENTION)


def test_a_complete_checkpoint_is_kept_and_another_is_replaced(tmp_path: Path, tokenizer: Path) -> None:
    output = tmp_path / "out"
    first = put(output, tokenizer, seed=0)
    assert put(output, tokenizer, seed=0) == first
    # the same training on a device that sums in no fixed order
    assert put(output, tokenizer, 0, dataclasses.replace(RECORD, training_loss=2.5 + 1e-6)) == first

    weights = output / "step-000030/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert put(output, tokenizer, 0)["model.safetensors"][1] == first["model.safetensors"][1]

    (output / "step-000030/checkpoint.json").unlink()
    put(output, tokenizer, seed=0)
    assert read_checkpoint(str(output), 30).record.step == 30

    other = put(output, tokenizer, 1, dataclasses.replace(RECORD, training_loss=9.0))
    assert other["model.safetensors"][1] != first["model.safetensors"][1]
    assert read_checkpoint(str(output), 30).record.training_loss == 9.0


def test_a_failed_upload_is_raised(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "out").write_text("a file where a folder should be")
    with pytest.raises(OSError):
        put(tmp_path / "out", tokenizer, seed=0)


def test_the_newest_complete_state_is_found(tmp_path: Path) -> None:
    output = str(tmp_path)
    assert newest_state(output) is None
    for step in (5, 20, 100, 1_000_000):
        folder = tmp_path / "resume" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        write_state(TrainingState(step, {"weights/a": torch.full((3,), float(step))}), folder)
    assert newest_state(output) == 1_000_000
    assert read_state(output, 1_000_000).tensors["weights/a"].tolist() == [1e6] * 3

    newest = tmp_path / "resume/step-1000000/state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    assert newest_state(output) == 100
    (tmp_path / "resume/step-000100/state.json").unlink()
    assert newest_state(output) == 20

    prune_states(output, keep=2)
    assert sorted(path.name for path in (tmp_path / "resume").iterdir()) == ["step-000020", "step-1000000"]


def test_a_state_after_a_damaged_checkpoint_is_skipped(tmp_path: Path, tokenizer: Path) -> None:
    output = str(tmp_path / "out")
    put(tmp_path / "out", tokenizer, seed=0)
    for step in (29, 30, 31):
        folder = tmp_path / f"out/resume/step-{step:06d}"
        folder.mkdir(parents=True)
        write_state(TrainingState(step, {"weights/a": torch.zeros(1)}), folder)
    assert newest_state(output, [30, 60]) == 31
    assert newest_state(output, [29, 30]) is None
    config = tmp_path / "out/step-000030/config.json"
    config.write_text(config.read_text().replace("0", "1", 1))
    assert newest_state(output, [30, 60]) == 29


def test_a_missing_loss_is_null_in_the_table(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    put_tables(str(tmp_path), History(checkpoints=[CheckpointRecord(0, 0.0, 0, 0.0, None, 3.0)]))
    row = pq.read_table(tmp_path / "held_out.parquet").to_pylist()
    assert json.dumps(row) == json.dumps([dataclasses.asdict(CheckpointRecord(0, 0.0, 0, 0.0, None, 3.0))])
