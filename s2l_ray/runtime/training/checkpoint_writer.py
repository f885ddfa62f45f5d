"""Write checkpoints, resume states and the tables of a training.

Checkpoints are uploaded by a background thread while training continues. States are written to a local folder that Ray
Train uploads. `training.parquet` is written last of all and marks the training as complete.
"""

import math
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path

import pyarrow as pa
import torch
from transformers import PreTrainedModel

from s2l_ray import storage
from s2l_ray.artifacts.fingerprint import seal
from s2l_ray.artifacts.schemas import CHECKPOINT_RECORD, HELD_OUT_TABLE, TRAINING_TABLE, step_name
from s2l_ray.artifacts.tables import FileRecord, write_table
from s2l_ray.core.causal_lm import on_meta_device, save_model
from s2l_ray.core.scoring.packed_check import AttentionChoice
from s2l_ray.core.training.records import CheckpointRecord, StepRecord
from s2l_ray.core.training.state import History, TrainingState, load_state, save_state
from s2l_ray.runtime.training.store import STATE, is_complete_checkpoint, read_checkpoint, state_record

# Relative difference of the losses of two runs of one training on a device that sums in no fixed order.
LOSS_TOLERANCE = 1e-3


class CheckpointWriter:
    """Uploads one checkpoint at a time in a thread."""

    def __init__(self, output: str, model: PreTrainedModel, tokenizer: Path) -> None:
        self._output = output
        self._model = on_meta_device(model)
        self._tokenizer = tokenizer
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint-upload")
        self._upload: Future[None] | None = None
        self._attention: AttentionChoice | None = None

    def set_training_attention(self, attention: AttentionChoice) -> None:
        self._attention = attention

    def put(self, record: CheckpointRecord, weights: dict[str, torch.Tensor]) -> None:
        """Upload a checkpoint after the previous one. Raises the failure of that."""
        self.flush()
        self._upload = self._thread.submit(self._put, record, weights)

    def flush(self) -> None:
        """Wait for the upload. Raises its failure."""
        if self._upload is not None:
            self._upload.result()

    def _put(self, record: CheckpointRecord, weights: dict[str, torch.Tensor]) -> None:
        folder = storage.join(self._output, step_name(record.step))
        if _is_stored(self._output, record):
            return
        with tempfile.TemporaryDirectory() as temporary:
            local = Path(temporary)
            save_model(self._model, local, state_dict=weights)
            shutil.copytree(self._tokenizer, local, dirs_exist_ok=True)
            files = [_file_record(local, path) for path in sorted(local.rglob("*")) if path.is_file()]
            for file in files:
                storage.put_file(local / file.path, storage.join(folder, file.path))
        attention = asdict(self._attention) if self._attention else None
        sealed = seal({**asdict(record), "attention": attention, "files": [asdict(file) for file in files]})
        storage.write_bytes(storage.join(folder, CHECKPOINT_RECORD), sealed)


def put_tables(output: str, history: History) -> None:
    write_table(output, HELD_OUT_TABLE, _table(history.checkpoints, CheckpointRecord))
    write_table(output, TRAINING_TABLE, _table(history.steps, StepRecord))


def write_state(state: TrainingState, folder: Path) -> None:
    """Write a state and its sealed record into a local folder."""
    record = _file_record(folder, save_state(state, folder))
    (folder / STATE).write_bytes(seal({"step": state.step, "files": [asdict(record)]}))


def read_state(output: str, step: int) -> TrainingState:
    """The state of a step that `newest_state` returned."""
    folder, record = state_record(output, step)
    if storage.is_local(folder):
        return load_state(storage.local_path(folder), step)
    with tempfile.TemporaryDirectory() as temporary:
        storage.get_file(storage.join(folder, record.path), Path(temporary) / record.path)
        return load_state(Path(temporary), step)


def _file_record(folder: Path, path: Path) -> FileRecord:
    return FileRecord(str(path.relative_to(folder)), None, path.stat().st_size, storage.sha256_file(str(path)))


def _is_stored(output: str, record: CheckpointRecord) -> bool:
    """Whether storage has this checkpoint complete, written by the same training."""
    if not is_complete_checkpoint(output, record.step):
        return False
    stored = read_checkpoint(output, record.step).record
    return _agree(stored.training_loss, record.training_loss) and _agree(stored.held_out_loss, record.held_out_loss)


def _agree(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=LOSS_TOLERANCE)


def _table(records: Sequence[StepRecord | CheckpointRecord], kind: type[StepRecord | CheckpointRecord]) -> pa.Table:
    """A typed table, since the column of a loss may be all null."""
    types = {column.name: pa.float64() if "float" in str(column.type) else pa.int64() for column in fields(kind)}
    return pa.Table.from_pylist([asdict(record) for record in records], schema=pa.schema(types))
