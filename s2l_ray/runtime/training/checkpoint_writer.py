"""What a training puts into storage: checkpoints of its grid, states to go on from, its tables at the end.

In: weights, states and histories of a worker; the URI of the checkpoints artefact. Out, below that URI:
`step-000500/` with weights, config, tokenizer and last a sealed `checkpoint.json` (a checkpoint exists once that does);
a local folder with a state, for Ray to upload; at the end `held_out.parquet`, then `training.parquet`.
Checkpoints go up in the background while training goes on.
"""

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

from s2l_ray import storage
from s2l_ray.artifacts.fingerprint import seal
from s2l_ray.artifacts.schemas import step_name
from s2l_ray.artifacts.tables import FileRecord, write_table
from s2l_ray.core.causal_lm import save_model, without_memory
from s2l_ray.core.training.log import History
from s2l_ray.core.training.packed_check import TrainingPath
from s2l_ray.core.training.records import CheckpointRecord, StepRecord
from s2l_ray.core.training.state import TrainingState, save_state
from s2l_ray.runtime.training.store import (
    CHECKPOINT,
    HELD_OUT,
    STATE,
    TRAINING,
    is_whole_checkpoint,
    read_checkpoint,
)

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
        self._path: TrainingPath | None = None

    def trained_by(self, path: TrainingPath) -> None:
        """Every checkpoint from now on says so."""
        self._path = path

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
            way = asdict(self._path) if self._path else None
            checkpoint = {**asdict(record), "trained_by": way, "files": [asdict(file) for file in files]}
            if _is_stored(self._output, checkpoint):
                return
            for file in files:
                storage.put_file(local / file.path, storage.join(folder, file.path))
        storage.write_bytes(storage.join(folder, CHECKPOINT), seal(checkpoint))


def put_tables(output: str, history: History) -> None:
    """Put the tables of a training that is over; the last of them says that it is."""
    write_table(output, HELD_OUT, _table(history.checkpoints, CheckpointRecord))
    write_table(output, TRAINING, _table(history.steps, StepRecord))


def write_state(state: TrainingState, folder: Path) -> None:
    """Write a state and its sealed record into a local folder."""
    record = _file_record(folder, save_state(state, folder))
    (folder / STATE).write_bytes(seal({"step": state.step, "files": [asdict(record)]}))


def _file_record(folder: Path, path: Path) -> FileRecord:
    return FileRecord(str(path.relative_to(folder)), None, path.stat().st_size, storage.sha256_file(str(path)))


def _is_stored(output: str, checkpoint: dict[str, Any]) -> bool:
    """Whether this checkpoint, of this training, lies there whole."""
    if not is_whole_checkpoint(output, checkpoint["step"]):
        return False
    stored = read_checkpoint(output, checkpoint["step"])
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
