"""Checkpoints and resume states of a training in storage, below the URI of the checkpoints artifact.

`step-000500/` holds weights, config, tokenizer and a sealed `checkpoint.json`, which is written last.
`resume/step-000512/` holds a state and its sealed `state.json`. Both record the sha256 of their files, so each can be
checked before there is a manifest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from s2l_ray import storage
from s2l_ray.artifacts.fingerprint import unseal
from s2l_ray.artifacts.schemas import CHECKPOINT_RECORD, HELD_OUT_TABLE, RESUME_FOLDER, TRAINING_TABLE, step_name
from s2l_ray.artifacts.tables import FileRecord, check_file, read_table, record_of
from s2l_ray.core.training.records import CheckpointRecord
from s2l_ray.errors import DamagedError
from s2l_ray.runtime.training.job import StoredCheckpoint

STATE = "state.json"
# the first and the last 1/CURVE_SHARE of the steps are compared to decide whether a model learned
CURVE_SHARE = 20


@dataclass(frozen=True)
class TrainingCurve:
    """Losses at the start and at the end of a training, on training rows and on held-out rows; None without those.

    tokens: of all batches.
    """

    training_loss_first: float | None
    training_loss_last: float | None
    held_out_loss_first: float | None
    held_out_loss_last: float | None
    tokens: int


def read_curve(output: str, files: Sequence[FileRecord]) -> TrainingCurve:
    """The curve of a complete training from its tables, which are among `files`."""
    by_path = {record.path: record for record in files}
    steps = read_table(output, by_path[TRAINING_TABLE], ["loss", "tokens"])
    loss_S = steps["loss"].to_numpy()
    window = max(1, len(loss_S) // CURVE_SHARE)
    held_out = read_table(output, by_path[HELD_OUT_TABLE])["held_out_loss"].drop_null().to_pylist()
    return TrainingCurve(
        float(np.mean(loss_S[:window])) if len(loss_S) else None,
        float(np.mean(loss_S[-window:])) if len(loss_S) else None,
        held_out[0] if held_out else None,
        held_out[-1] if held_out else None,
        sum(steps["tokens"].to_pylist()),
    )


def read_checkpoint(output: str, step: int) -> StoredCheckpoint:
    """The sealed record of one checkpoint. Raises `FileNotFoundError` or `DamagedError`."""
    path = f"{step_name(step)}/{CHECKPOINT_RECORD}"
    data = storage.read_bytes(storage.join(output, path))
    sealed = unseal(data, storage.join(output, path))
    record = CheckpointRecord(**{column.name: sealed[column.name] for column in fields(CheckpointRecord)})
    files = [FileRecord(**{**file, "path": f"{step_name(step)}/{file['path']}"}) for file in sealed["files"]]
    return StoredCheckpoint(record, [*files, record_of(path, data)])


def is_complete_checkpoint(output: str, step: int) -> bool:
    """Whether every file of a checkpoint has its recorded sha256; reads them all."""
    try:
        for file in read_checkpoint(output, step).files:
            check_file(output, file)
    except (FileNotFoundError, DamagedError):
        return False
    return True


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


def state_record(output: str, step: int) -> tuple[str, FileRecord]:
    """The folder of a state and the sealed record of its file. Raises `FileNotFoundError` or `DamagedError`."""
    folder = storage.join(output, RESUME_FOLDER, step_name(step))
    sealed = unseal(storage.read_bytes(storage.join(folder, STATE)), storage.join(folder, STATE))
    return folder, FileRecord(**sealed["files"][0])


def prune_states(output: str, keep: int) -> int:
    """Delete partial states and all but the newest `keep`. Returns the newest step, 0 if there is none."""
    complete = [step for step in _state_steps(output) if _is_complete_state(output, step, only_size=True)]
    for step in set(_state_steps(output)) - set(complete[-keep:]):
        storage.delete_folder(storage.join(output, RESUME_FOLDER, step_name(step)))
    return max(complete, default=0)


def _state_steps(output: str) -> list[int]:
    names = storage.list_folders(storage.join(output, RESUME_FOLDER))
    return sorted(int(name.removeprefix("step-")) for name in names if name.startswith("step-"))


def _is_complete_state(output: str, step: int, only_size: bool = False) -> bool:
    try:
        folder, record = state_record(output, step)
        if storage.size(storage.join(folder, record.path)) != record.bytes:
            return False
        if not only_size:
            check_file(folder, record)
    except (FileNotFoundError, DamagedError):  # also for a state that is pruned meanwhile
        return False
    return True
