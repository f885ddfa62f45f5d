"""What a training leaves in storage: the checkpoints of its grid, states to go on from, its tables at the end.

In: weights, states and histories of a worker; the URI of the checkpoints artefact. Out, below that URI:
`step-000500/` with weights, config, tokenizer and last a sealed `checkpoint.json` (a checkpoint exists once that does);
`resume/step-000512/` with a state and its sealed `state.json`; at the end `held_out.parquet`, then `training.parquet`.
Checkpoints go up in the background while training goes on.
"""

import contextlib
import math
import shutil
import tempfile
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from transformers import PreTrainedModel

from s2l_ray.artifacts import storage
from s2l_ray.artifacts.errors import DamagedError
from s2l_ray.artifacts.fingerprint import seal, unseal
from s2l_ray.artifacts.schemas import step_name
from s2l_ray.artifacts.tables import FileRecord, read_verified, write_table
from s2l_ray.core.causal_lm import save_model, without_memory
from s2l_ray.core.history import CheckpointRecord, History, StepRecord
from s2l_ray.core.training_state import TrainingState, load_state, save_state

CHECKPOINT, STATE = "checkpoint.json", "state.json"
RESUME = "resume"
TRAINING, HELD_OUT = "training.parquet", "held_out.parquet"
WAITING = 2
"""Checkpoints in memory that wait for their upload, before training waits for them."""
LOSS_TOLERANCE = 1e-3
"""Two runs of one training may differ by this share of a loss on devices whose sums have no fixed order."""


class CheckpointWriter:
    """Puts the checkpoints of the grid, one after the other, in a thread of its own."""

    def __init__(self, output: str, model: PreTrainedModel, tokenizer: Path) -> None:
        self._output = output
        self._model = without_memory(model)
        self._tokenizer = tokenizer
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: deque[Future[None]] = deque()

    def put(self, record: CheckpointRecord, weights: dict[str, torch.Tensor]) -> None:
        """Begin to put a checkpoint. Raises what an earlier one failed with."""
        while len(self._pending) >= WAITING:
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(self._put, record, weights))

    def flush(self) -> None:
        """Wait until all that was begun is stored. Raises what one failed with."""
        while self._pending:
            self._pending.popleft().result()

    def _put(self, record: CheckpointRecord, weights: dict[str, torch.Tensor]) -> None:
        folder = storage.join(self._output, step_name(record.step))
        with tempfile.TemporaryDirectory() as temporary:
            local = Path(temporary)
            save_model(self._model, None, local, state_dict=weights)
            shutil.copytree(self._tokenizer, local, dirs_exist_ok=True)
            files = [_file_record(local, path) for path in sorted(local.rglob("*")) if path.is_file()]
            checkpoint = {**asdict(record), "files": [asdict(file) for file in files]}
            if _is_stored(folder, checkpoint):
                return
            for file in files:
                storage.put_file(local / file.path, storage.join(folder, file.path))
        storage.write_bytes(storage.join(folder, CHECKPOINT), seal(checkpoint))


def read_checkpoint(output: str, step: int) -> dict[str, Any]:
    """The sealed record of one checkpoint. Raises `FileNotFoundError` or `DamagedError`."""
    place = storage.join(output, step_name(step), CHECKPOINT)
    return unseal(storage.read_bytes(place), place)


def put_tables(output: str, history: History) -> None:
    """Put the tables of a training that is over; the last of them says that it is."""
    write_table(output, HELD_OUT, _table(history.checkpoints, CheckpointRecord))
    write_table(output, TRAINING, _table(history.steps, StepRecord))


def write_state(state: TrainingState, folder: Path) -> None:
    """Write a state and its sealed record into a local folder."""
    record = _file_record(folder, save_state(state, folder))
    (folder / STATE).write_bytes(seal({"step": state.step, "files": [asdict(record)]}))


def newest_state(output: str) -> int | None:
    """The step of the newest state that is whole, or None. A damaged one is passed over: its steps are done again."""
    for step in reversed(_state_steps(output)):
        if _sizes_agree(output, step):
            with contextlib.suppress(DamagedError):
                folder, record = _state_record(output, step)
                if storage.sha256_file(storage.join(folder, record.path)) == record.sha256:
                    return step
    return None


def read_state(output: str, step: int) -> TrainingState:
    """The state of a step that `newest_state` named."""
    folder, record = _state_record(output, step)
    if storage.is_local(folder):
        return load_state(storage.local_path(folder), step)
    with tempfile.TemporaryDirectory() as temporary:
        place = storage.join(folder, record.path)
        with storage.open_input(place) as reader, (Path(temporary) / record.path).open("wb") as writer:
            shutil.copyfileobj(reader, writer, storage.COPY_BYTES)
        return load_state(Path(temporary), step)


def prune_states(output: str, keep: int) -> None:
    """Remove all states but the newest `keep`, and those that broke off."""
    whole = [step for step in _state_steps(output) if _sizes_agree(output, step)]
    for step in set(_state_steps(output)) - set(whole[-keep:]):
        storage.delete_folder(storage.join(output, RESUME, step_name(step)))


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


def _file_record(folder: Path, path: Path) -> FileRecord:
    return FileRecord(str(path.relative_to(folder)), None, path.stat().st_size, storage.sha256_file(str(path)))


def _is_stored(folder: str, checkpoint: dict[str, Any]) -> bool:
    """Whether this checkpoint, of this training, lies there whole."""
    try:
        stored = unseal(storage.read_bytes(storage.join(folder, CHECKPOINT)), folder)
        if not _same_training(stored, checkpoint):
            return False
        for file in stored["files"]:
            read_verified(folder, FileRecord(**file))
    except (FileNotFoundError, DamagedError):
        return False
    return True


def _same_training(stored: dict[str, Any], checkpoint: dict[str, Any]) -> bool:
    if [file["path"] for file in stored["files"]] != [file["path"] for file in checkpoint["files"]]:
        return False
    return all(
        _close(stored[column.name], checkpoint[column.name])
        if column.name.endswith("loss")
        else stored[column.name] == checkpoint[column.name]
        for column in fields(CheckpointRecord)
    )


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=LOSS_TOLERANCE)


def _table(records: list[Any], kind: type[Any]) -> pa.Table:
    types = {"int": pa.int64(), "float": pa.float64(), "float | None": pa.float64()}
    schema = pa.schema([(column.name, types[str(column.type)]) for column in fields(kind)])
    return pa.Table.from_pylist([asdict(record) for record in records], schema=schema)
