"""Write checkpoints, resume states and the tables of a training.

Checkpoints are uploaded by a background thread while training continues. States are written to a local folder that Ray
Train uploads. `training.parquet` is written last of all and marks the training as complete.
"""

import math
import shutil
import tempfile
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, astuple, fields
from pathlib import Path

import pyarrow as pa
import torch
from transformers import PreTrainedModel

from s2l_ray import storage
from s2l_ray.artifacts.fingerprint import seal
from s2l_ray.artifacts.schemas import step_name
from s2l_ray.artifacts.tables import FileRecord, write_table
from s2l_ray.core.causal_lm import on_meta_device, save_model
from s2l_ray.core.training.log import History
from s2l_ray.core.training.packed_check import TrainingAttention
from s2l_ray.core.training.records import CheckpointRecord, StepRecord
from s2l_ray.core.training.state import TrainingState, save_state
from s2l_ray.runtime.training.job import StoredCheckpoint
from s2l_ray.runtime.training.store import (
    HELD_OUT,
    STATE,
    TRAINING,
    is_complete_checkpoint,
    read_checkpoint,
    write_checkpoint_record,
)

# Checkpoints in memory that wait for their upload before training waits for them.
MAX_PENDING = 2
# Relative difference of the losses of two runs of one training on a device that sums in no fixed order.
LOSS_TOLERANCE = 1e-3


class CheckpointWriter:
    """Uploads checkpoints one after the other in a thread."""

    def __init__(self, output: str, model: PreTrainedModel, tokenizer: Path) -> None:
        self._output = output
        self._model = on_meta_device(model)
        self._tokenizer = tokenizer
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint-upload")
        self._pending: deque[Future[None]] = deque()
        self._attention: TrainingAttention | None = None

    def set_training_attention(self, attention: TrainingAttention) -> None:
        """Set the attention that later checkpoints record."""
        self._attention = attention

    def put(self, record: CheckpointRecord, weights: dict[str, torch.Tensor]) -> None:
        """Queue a checkpoint. Raises the failure of an earlier upload."""
        while len(self._pending) >= MAX_PENDING:
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(self._put, record, weights))

    def flush(self) -> None:
        """Wait until all queued checkpoints are stored. Raises the failure of an upload."""
        while self._pending:
            self._pending.popleft().result()

    def _put(self, record: CheckpointRecord, weights: dict[str, torch.Tensor]) -> None:
        folder = storage.join(self._output, step_name(record.step))
        with tempfile.TemporaryDirectory() as temporary:
            local = Path(temporary)
            save_model(self._model, local, state_dict=weights)
            shutil.copytree(self._tokenizer, local, dirs_exist_ok=True)
            files = [_file_record(local, path) for path in sorted(local.rglob("*")) if path.is_file()]
            checkpoint = StoredCheckpoint(record, files)
            if _is_stored(self._output, checkpoint):
                return
            for file in files:
                storage.put_file(local / file.path, storage.join(folder, file.path))
        write_checkpoint_record(self._output, checkpoint, self._attention)


def put_tables(output: str, history: History) -> None:
    """Write the tables of a complete training."""
    write_table(output, HELD_OUT, _table(history.checkpoints, CheckpointRecord))
    write_table(output, TRAINING, _table(history.steps, StepRecord))


def write_state(state: TrainingState, folder: Path) -> None:
    """Write a state and its sealed record into a local folder."""
    record = _file_record(folder, save_state(state, folder))
    (folder / STATE).write_bytes(seal({"step": state.step, "files": [asdict(record)]}))


def _file_record(folder: Path, path: Path) -> FileRecord:
    return FileRecord(str(path.relative_to(folder)), None, path.stat().st_size, storage.sha256_file(str(path)))


def _is_stored(output: str, checkpoint: StoredCheckpoint) -> bool:
    """Whether storage has this checkpoint complete, written by the same training."""
    step = checkpoint.record.step
    if not is_complete_checkpoint(output, step):
        return False
    stored = read_checkpoint(output, step)
    if [file.path for file in stored.files] != [file.path for file in checkpoint.files]:
        return False
    pairs = zip(fields(stored.record), astuple(stored.record), astuple(checkpoint.record), strict=True)
    return all(_close(one, other) if column.name.endswith("loss") else one == other for column, one, other in pairs)


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=LOSS_TOLERANCE)


def _table(records: Sequence[StepRecord | CheckpointRecord], kind: type[StepRecord | CheckpointRecord]) -> pa.Table:
    types = {"int": pa.int64(), "float": pa.float64(), "float | None": pa.float64()}
    schema = pa.schema([(column.name, types[_type_name(column.type)]) for column in fields(kind)])
    return pa.Table.from_pylist([asdict(record) for record in records], schema=schema)


def _type_name(kind: object) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)
