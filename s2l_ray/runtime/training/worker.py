"""One worker of a training, in a process that Ray Train has started and connected with the other ranks."""

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
from s2l_ray.runtime.contracts import ActorHandle
from s2l_ray.runtime.failures import failure_from_exception
from s2l_ray.runtime.training.checkpoint_writer import CheckpointWriter, put_tables, write_state
from s2l_ray.runtime.training.job import MEMORY_HINT, TrainJob
from s2l_ray.runtime.training.mailbox import Reporter
from s2l_ray.runtime.training.rows import read_rows
from s2l_ray.runtime.training.store import newest_state, read_state
from s2l_ray.runtime.worker_process import arm_exit_watchdog, this_process

# Errors of a collective whose peer was lost contain one of these.
COLLECTIVE_SIGNS = ("gloo", "NCCL")


def train_worker(job: TrainJob, mailbox: ActorHandle) -> None:
    """Train from the newest state. Posts a failure of the training itself to the mailbox before raising it."""
    arm_exit_watchdog()
    mailbox.register.remote(ray.train.get_context().get_world_rank(), str(this_process()))
    try:
        _train(job, mailbox)
    except Exception as error:
        if not _is_lost_peer(error):
            known = S2LError(f"train: {error}") if isinstance(error, FloatingPointError | ValueError) else error
            ray.get(mailbox.post_failure.remote(failure_from_exception(known, "train", MEMORY_HINT)))
        raise


def _is_lost_peer(error: Exception) -> bool:
    return isinstance(error, torch.distributed.DistError) or any(sign in str(error) for sign in COLLECTIVE_SIGNS)


def _train(job: TrainJob, mailbox: ActorHandle) -> None:
    torch.set_num_threads(job.threads)
    dataset = open_artifact(job.dataset)
    train_rows, held_out_rows = _read(job, dataset)
    total = total_steps(len(train_rows), job.settings)
    with tempfile.TemporaryDirectory() as temporary:
        model = _make_model(job)
        check_fit(model, job, [train_rows, held_out_rows])
        writer = CheckpointWriter(job.output, model, dataset.fetch("tokenizer", Path(temporary)))
        state = _read_state(job, grid_steps(len(train_rows), job.settings))
        torch.nn.Module.to(model, get_device())
        reporter = Reporter(mailbox, total, job.settings.batch_size, job.save_minutes * 60)
        history = finetune(model, train_rows, held_out_rows, job.settings, _hooks(writer, reporter), state)
        writer.flush()
    if _is_rank_zero() and len(history.steps) == total:
        put_tables(job.output, history)


def _read_state(job: TrainJob, grid: list[int]) -> TrainingState | None:
    step = broadcast_from_rank_zero(newest_state(job.output, grid) if _is_rank_zero() else None)
    return read_state(job.output, step) if step is not None else None


def _is_rank_zero() -> bool:
    return int(ray.train.get_context().get_world_rank()) == 0


def _read(job: TrainJob, dataset: Artifact) -> list[TokenRows]:
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


def check_fit(model: PreTrainedModel, job: TrainJob, sampled: list[TokenRows]) -> None:
    """Raise `S2LError` if the model lacks an embedding or a position for a row of the dataset.

    All rows count and not only the `sampled` ones that are trained on: scoring reads every row.
    """
    embedding: Any = model.get_input_embeddings()
    embeddings = int(embedding.num_embeddings)
    vocab_size = max(job.vocab_size, *(int(rows.ids_X.max(initial=-1)) + 1 for rows in sampled))
    if vocab_size > embeddings:
        raise S2LError(
            f"train: the tokenizer has ids up to {vocab_size - 1}, but the model has only {embeddings} embeddings; "
            "set data.tokenizer to the model's own tokenizer"
        )
    positions = getattr(model.config, "max_position_embeddings", None)
    longest = max(job.longest, *(int(rows.lengths_N.max(initial=0)) for rows in sampled))
    if positions is not None and longest > positions:
        raise S2LError(
            f"train: the longest row has {longest} tokens, but the model has only {positions} positions; "
            f"set data.max_length to at most {positions}, or choose another proxy.model"
        )


def _hooks(writer: CheckpointWriter, reporter: Reporter) -> Hooks:
    """Rank 0 writes and reports; every rank takes part in Ray's report of a state, which is a barrier."""

    def put_checkpoint(record: CheckpointRecord, weights: dict[str, torch.Tensor]) -> None:
        if _is_rank_zero():
            writer.put(record, weights)

    def put_state(state: TrainingState) -> None:
        if not _is_rank_zero():
            ray.train.report({}, checkpoint_dir_name=step_name(state.step))
            return
        # A training resumed from this state never writes the earlier checkpoints.
        writer.flush()
        with tempfile.TemporaryDirectory() as folder:
            write_state(state, Path(folder))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({}, checkpoint, checkpoint_dir_name=step_name(state.step))
        reporter.mark_saved()

    def add_step(record: StepRecord) -> None:
        if _is_rank_zero():
            reporter.add_step(record)

    return Hooks(
        on_step=add_step,
        on_checkpoint=put_checkpoint,
        signal=reporter.signal,
        on_attention=writer.set_training_attention,
        on_state=put_state,
    )
