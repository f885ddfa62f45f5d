"""What each worker of a training does.

In: a `TrainJob` and a mailbox to the driver, inside a process that Ray Train has started and connected with the others.
Out: checkpoints, states and tables in storage, progress and failures in the mailbox.
"""

import tempfile
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import get_device
from transformers import PreTrainedModel

from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.artifacts.schemas import step_name
from s2l_ray.core.causal_lm import init_model, load_model
from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.training.finetune import Hooks, finetune
from s2l_ray.core.training.records import CheckpointRecord, StepRecord
from s2l_ray.core.training.schedule import sample_train, split_held_out
from s2l_ray.core.training.settings import grid_steps, total_steps
from s2l_ray.core.training.state import TrainingState
from s2l_ray.errors import S2LError
from s2l_ray.runtime.exit_watchdog import leave_for_certain
from s2l_ray.runtime.failures import Record, to_record
from s2l_ray.runtime.training.checkpoint_writer import CheckpointWriter, put_tables, write_state
from s2l_ray.runtime.training.job import LOWER, TrainJob
from s2l_ray.runtime.training.mailbox import Reporter
from s2l_ray.runtime.training.store import newest_state, read_state
from s2l_ray.runtime.unit_tracker import this_process


def train_worker(job: TrainJob, mailbox: Any) -> None:
    """Train, from the newest state on. Leaves a failure in the mailbox before it raises it."""
    leave_for_certain()
    mailbox.post_place.remote(ray.train.get_context().get_world_rank(), str(this_process()))
    try:
        _train(job, mailbox)
    except Exception as error:
        ray.get(mailbox.post_failure.remote(_failure(error)))
        raise


def _failure(error: Exception) -> Record:
    """A lost peer shows as a broken collective; the driver tells that from a failure of the training itself."""
    if isinstance(error, FloatingPointError | ValueError):
        error = S2LError(f"train: {error}")
    lost = isinstance(error, torch.distributed.DistError) or any(sign in str(error) for sign in ("gloo", "NCCL"))
    return {**to_record(error, "train", LOWER), "peer": "lost" if lost else ""}


def _train(job: TrainJob, mailbox: Any) -> None:
    torch.set_num_threads(job.threads)
    dataset = open_artifact(job.dataset)
    train_rows, held_out_rows = _read(job, dataset)
    total = total_steps(len(train_rows), job.settings)
    with tempfile.TemporaryDirectory() as temporary:
        model = _make_model(job)
        _check_fit(model, [train_rows, held_out_rows])
        writer = CheckpointWriter(job.output, model, dataset.fetch("tokenizer", Path(temporary)))
        state = _read_state(job, grid_steps(len(train_rows), job.settings))
        torch.nn.Module.to(model, get_device())
        reporter = Reporter(mailbox, total, job.settings.batch_size, job.save_minutes * 60)
        history = finetune(model, train_rows, held_out_rows, job.settings, _hooks(writer, reporter), state)
        writer.flush()
    if _is_first() and len(history.steps) == total:
        put_tables(job.output, history)


def _read_state(job: TrainJob, grid: list[int]) -> TrainingState | None:
    step = broadcast_from_rank_zero(newest_state(job.output, grid) if _is_first() else None)
    return read_state(job.output, step) if step is not None else None


def _is_first() -> bool:
    return int(ray.train.get_context().get_world_rank()) == 0


def _read(job: TrainJob, dataset: Artifact) -> list[TokenRows]:
    from s2l_ray.runtime.training.rows import read_rows

    train_index, held_out_index = split_held_out(job.rows_ok, job.held_out, job.settings.seed)
    train_index = sample_train(train_index, job.train_examples, job.settings.seed)
    return read_rows(dataset, job.rows_ok, [train_index, held_out_index])


def _make_model(job: TrainJob) -> PreTrainedModel:
    if isinstance(job.model, dict):
        return init_model(job.model, job.vocab_size, job.settings.seed)
    if Path(job.model).is_dir():
        return load_model(Path(job.model))
    from huggingface_hub import snapshot_download

    patterns = ["*.safetensors", "*.json"]
    return load_model(snapshot_download(job.model, revision=job.revision, allow_patterns=patterns))


def _check_fit(model: PreTrainedModel, parts: list[TokenRows]) -> None:
    """Refuse rows that the model has no embedding or no position for."""
    embedding: Any = model.get_input_embeddings()
    vocab_size = int(embedding.num_embeddings)
    largest = max(int(rows.ids_X.max(initial=0)) for rows in parts)
    if largest >= vocab_size:
        raise S2LError(
            f"train: token {largest} is beyond the model's vocabulary of {vocab_size}; "
            "give data.tokenizer the model's own tokenizer"
        )
    positions = getattr(model.config, "max_position_embeddings", None)
    longest = max(int(rows.lengths_N.max(initial=0)) for rows in parts)
    if positions is not None and longest > positions:
        raise S2LError(
            f"train: a row of {longest} tokens is longer than the model's {positions} positions; lower data.max_length"
        )


def _hooks(writer: CheckpointWriter, reporter: Reporter) -> Hooks:
    """Rank 0 writes and speaks; Ray's report of a state is a barrier, so that every rank takes part in it."""

    def put_checkpoint(record: CheckpointRecord, weights: dict[str, torch.Tensor]) -> None:
        if _is_first():
            writer.put(record, weights)

    def put_state(state: TrainingState) -> None:
        if not _is_first():
            ray.train.report({}, checkpoint_dir_name=step_name(state.step))
            return
        # a training that goes on from this state never comes by the earlier checkpoints again
        writer.flush()
        with tempfile.TemporaryDirectory() as folder:
            write_state(state, Path(folder))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({}, checkpoint, checkpoint_dir_name=step_name(state.step))
        reporter.state_is_saved()

    def step(record: StepRecord) -> None:
        if _is_first():
            reporter.step(record)

    return Hooks(
        on_step=step,
        on_checkpoint=put_checkpoint,
        signal=reporter.signal,
        on_path=writer.trained_by,
        on_state=put_state,
    )
