"""Checkpoints and resume states of a training in storage, below the URI of the checkpoints artifact.

`step-000500/` holds weights, config, tokenizer and a sealed `checkpoint.json`, which is written last.
`resume/step-000512/` holds a state and its sealed `state.json`. Both record the sha256 of their files, so each can be
checked before there is a manifest.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray import storage
from s2l_ray.artifacts.fingerprint import seal, unseal
from s2l_ray.artifacts.schemas import step_name
from s2l_ray.artifacts.tables import FileRecord
from s2l_ray.core.training.records import CheckpointRecord
from s2l_ray.errors import DamagedError
from s2l_ray.runtime.training.job import StoredCheckpoint

if TYPE_CHECKING:
    from s2l_ray.core.training.packed_check import TrainingAttention
    from s2l_ray.core.training.state import TrainingState

CHECKPOINT, STATE = "checkpoint.json", "state.json"
RESUME = "resume"
TRAINING, HELD_OUT = "training.parquet", "held_out.parquet"


def write_checkpoint_record(output: str, checkpoint: StoredCheckpoint, attention: TrainingAttention | None) -> None:
    """Seal a checkpoint whose files are stored, with the attention of its training."""
    choice = asdict(attention) if attention else None
    files = [asdict(file) for file in checkpoint.files]
    sealed = seal({**asdict(checkpoint.record), "attention": choice, "files": files})
    storage.write_bytes(storage.join(output, step_name(checkpoint.record.step), CHECKPOINT), sealed)


def read_checkpoint(output: str, step: int) -> StoredCheckpoint:
    """The sealed record of one checkpoint. Raises `FileNotFoundError` or `DamagedError`."""
    uri = storage.join(output, step_name(step), CHECKPOINT)
    sealed = unseal(storage.read_bytes(uri), uri)
    record = CheckpointRecord(**{column.name: sealed[column.name] for column in fields(CheckpointRecord)})
    return StoredCheckpoint(record, [FileRecord(**file) for file in sealed["files"]])


def is_complete_checkpoint(output: str, step: int) -> bool:
    """Whether every file of a checkpoint has its recorded sha256; reads them all."""
    try:
        files = read_checkpoint(output, step).files
        uris = [storage.join(output, step_name(step), file.path) for file in files]
        return all(storage.sha256_file(uri) == file.sha256 for uri, file in zip(uris, files, strict=True))
    except (FileNotFoundError, DamagedError):
        return False


def newest_state(output: str, grid: Sequence[int] = ()) -> int | None:
    """The step of the newest state that a training can resume from, or None.

    Skips damaged states, and states after a missing or damaged checkpoint of `grid`: a training resumed from there
    would never write that checkpoint.
    """
    steps = (step for step in reversed(_state_steps(output)) if _is_complete_state(output, step))
    newest = next(steps, None)
    if newest is None:
        return None
    missing = next((step for step in grid if step <= newest and not is_complete_checkpoint(output, step)), None)
    return newest if missing is None else next((step for step in steps if step < missing), None)


def read_state(output: str, step: int) -> TrainingState:
    """The state of a step that `newest_state` returned."""
    from s2l_ray.core.training.state import load_state

    folder, record = _state_record(output, step)
    if storage.is_local(folder):
        return load_state(storage.local_path(folder), step)
    with tempfile.TemporaryDirectory() as temporary:
        storage.get_file(storage.join(folder, record.path), Path(temporary) / record.path)
        return load_state(Path(temporary), step)


def prune_states(output: str, keep: int) -> int:
    """Delete partial states and all but the newest `keep`. Returns the newest step, 0 if there is none."""
    complete = [step for step in _state_steps(output) if _sizes_agree(output, step)]
    for step in set(_state_steps(output)) - set(complete[-keep:]):
        storage.delete_folder(storage.join(output, RESUME, step_name(step)))
    return max(complete, default=0)


def _state_steps(output: str) -> list[int]:
    names = storage.list_folders(storage.join(output, RESUME))
    return sorted(int(name.removeprefix("step-")) for name in names if name.startswith("step-"))


def _state_record(output: str, step: int) -> tuple[str, FileRecord]:
    folder = storage.join(output, RESUME, step_name(step))
    sealed = unseal(storage.read_bytes(storage.join(folder, STATE)), storage.join(folder, STATE))
    return folder, FileRecord(**sealed["files"][0])


def _sizes_agree(output: str, step: int) -> bool:
    try:
        folder, record = _state_record(output, step)
        return storage.size(storage.join(folder, record.path)) == record.bytes
    except (FileNotFoundError, DamagedError):
        return False


def _is_complete_state(output: str, step: int) -> bool:
    try:
        folder, record = _state_record(output, step)
        uri = storage.join(folder, record.path)
        return storage.size(uri) == record.bytes and storage.sha256_file(uri) == record.sha256
    except (FileNotFoundError, DamagedError):  # also for a state that is pruned meanwhile
        return False
