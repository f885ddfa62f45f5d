"""One worker of a training, in a process that Ray Train has started and connected with the other ranks."""

import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import get_device
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.artifacts.schemas import step_name
from s2l_ray.core.causal_lm import check_model_fits, init_model, load_model
from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.data.tokenization import load_tokenizer, special_ids
from s2l_ray.core.scoring.packed_check import AttentionChoice
from s2l_ray.core.training.finetune import Hooks, Weights, finetune
from s2l_ray.core.training.lora import add_adapters, merge_adapters
from s2l_ray.core.training.records import CheckpointRecord, StepRecord
from s2l_ray.core.training.schedule import Signal, sample_train
from s2l_ray.core.training.state import TrainingState
from s2l_ray.errors import S2LError
from s2l_ray.runtime.contracts import ActorHandle, Progress, RemoteTask
from s2l_ray.runtime.failures import failure_from_exception
from s2l_ray.runtime.training.checkpoint_writer import CheckpointWriter, put_tables, read_state, write_state
from s2l_ray.runtime.training.job import TrainJob
from s2l_ray.runtime.training.rows import read_held_out_rows, read_rows, read_selected_rows
from s2l_ray.runtime.training.store import newest_state
from s2l_ray.runtime.worker_process import Process, join_monitor, usage_of
from s2l_ray.sources.checkpoints import MODEL_FILES
from s2l_ray.sources.hub import model_folder

# Errors of a collective, which fails if a peer was lost, contain one of these.
COLLECTIVE_SIGNS = ("gloo", "NCCL")
REPORT_SECONDS = 0.5
TOKENIZER_FILE = "tokenizer.json"
# the largest share of tokens that a model and its dataset may disagree on
MOST_RENAMED = 0.05


def train_worker(job: TrainJob, task: RemoteTask, monitor: ActorHandle) -> None:
    """Train from the newest state. Reports a failure of the training itself to the monitor before raising it."""
    process = join_monitor(monitor)
    monitor.start.remote(process, f"rank {ray.train.get_context().get_world_rank()}")
    try:
        seconds = _train(job, monitor, process)
    except Exception as error:
        in_collective = any(sign in str(error) for sign in COLLECTIVE_SIGNS)
        if not in_collective and not isinstance(error, torch.distributed.DistError):
            known = S2LError(f"train: {error}") if isinstance(error, FloatingPointError | ValueError) else error
            ray.get(monitor.fail.remote(process, failure_from_exception(known, task)))
        raise
    ray.get(monitor.finish.remote(process, usage_of(process, seconds)))


class Reporter:
    """Rank 0's reports to the monitor, and the action after each step. Ray Train's reports are barriers over ranks."""

    def __init__(self, monitor: ActorHandle, process: Process, job: TrainJob) -> None:
        self._monitor, self._process, self._job = monitor, process, job
        self.started = self.saved = time.monotonic()
        self._reported = 0.0
        self._steps = self._tokens = 0
        self._reply: Any = None
        self._stopping = False

    def add_step(self, record: StepRecord) -> None:
        """Count a step; report progress at most twice a second, and at the last step."""
        now, total = time.monotonic(), self._job.total_steps()
        self._steps += 1
        self._tokens += record.tokens
        if now - self._reported < REPORT_SECONDS and record.step < total:
            return
        self._reported = now
        counts = {"rows": self._steps * self._job.settings.batch_size, "tokens": self._tokens}
        progress = Progress("", record.step, total, "steps", counts, now - self.started, {"loss": record.loss})
        self._reply = self._monitor.progress.remote(self._process, progress)

    def signal(self, step: int) -> Signal:
        """The action after a step. The last step needs no state, since the tables follow it."""
        if self._reply is not None and ray.wait([self._reply], timeout=0)[0]:
            self._stopping = ray.get(self._reply)
        if self._stopping:
            return "save and stop"
        due = time.monotonic() - self.saved >= self._job.save_minutes * 60
        return "save" if due and step < self._job.total_steps() else "continue"


def _train(job: TrainJob, monitor: ActorHandle, process: Process) -> float:
    """Train, and return the seconds of the steps and checkpoints, without loading and checking the model."""
    torch.set_num_threads(job.threads)
    dataset = open_artifact(job.dataset)
    train_rows, held_out_rows = _read_train_rows(job, dataset), read_held_out_rows(dataset)
    with dataset.hold("tokenizer/") as folder:
        model = _make_model(job, folder / "tokenizer")
        check_fit(model, job, [train_rows, held_out_rows])
        writer = CheckpointWriter(job.output, model, folder / "tokenizer")
        if job.lora is not None:
            add_adapters(model, job.lora, job.settings.seed)
        state = _read_state(job)
        torch.nn.Module.to(model, get_device())
        reporter = Reporter(monitor, process, job)
        hooks = _hooks(writer, reporter, model if job.lora is not None else None)
        history = finetune(model, train_rows, held_out_rows, job.settings, hooks, state)
        writer.flush()
        seconds = time.monotonic() - reporter.started
    if _is_rank_zero() and len(history.steps) == job.total_steps():
        put_tables(job.output, history)
    return seconds


def _read_state(job: TrainJob) -> TrainingState | None:
    step = broadcast_from_rank_zero(newest_state(job.output, job.planned_steps()) if _is_rank_zero() else None)
    return read_state(job.output, step) if step is not None else None


def _is_rank_zero() -> bool:
    return int(ray.train.get_context().get_world_rank()) == 0


def _read_train_rows(job: TrainJob, dataset: Artifact) -> TokenRows:
    if job.subset is not None:
        return read_selected_rows(dataset, open_artifact(job.subset))
    return read_rows(dataset, job.rows_ok, sample_train(job.rows_ok, job.train_examples, job.settings.seed))


def _make_model(job: TrainJob, tokenizer: Path) -> PreTrainedModel:
    if isinstance(job.model, dict):
        return init_model(job.model, job.vocab_size, job.settings.seed, special_ids(load_tokenizer(str(tokenizer))))
    folder = model_folder(job.model, job.revision, MODEL_FILES)
    check_tokenizer(folder, tokenizer)
    return load_model(folder)


def check_tokenizer(model: Path, used: Path) -> None:
    """Raise `S2LError` if the model was saved with a tokenizer in which the ids of the dataset mean other tokens.

    A few may differ: reserved tokens that were given a name.
    """
    if not (model / TOKENIZER_FILE).is_file():
        return
    own, ids = (Tokenizer.from_file(str(folder / TOKENIZER_FILE)).get_vocab() for folder in (model, used))
    differing = sum(own.get(token) != number for token, number in ids.items())
    if differing > MOST_RENAMED * len(ids):
        raise S2LError(
            f"train: {differing} of {len(ids)} tokens of the dataset have other ids in the tokenizer of {model}; set "
            "data.tokenizer to the model's own or, for a target, target.tokenizer"
        )


def check_fit(model: PreTrainedModel, job: TrainJob, sampled: list[TokenRows]) -> None:
    """Raise `S2LError` if the model lacks an embedding or a position for a row of the dataset.

    All rows count and not only the `sampled` ones that are trained on: scoring reads every row.
    """
    vocab_size = job.vocab_size or max(int(rows.ids_X.max(initial=-1)) + 1 for rows in sampled)
    longest = max(job.longest, *(int(rows.lengths_N.max(initial=0)) for rows in sampled))
    try:
        check_model_fits(model, vocab_size, longest)
    except ValueError as error:
        raise S2LError(f"train: {error}") from error


def _hooks(writer: CheckpointWriter, reporter: Reporter, adapted: PreTrainedModel | None) -> Hooks:
    """Rank 0 writes and reports; every rank takes part in Ray's report of a state, which is a barrier.

    adapted: a model with adapters, which are merged into its checkpoints.
    """
    if not _is_rank_zero():
        return Hooks(on_state=lambda state: ray.train.report({}, checkpoint_dir_name=step_name(state.step)))

    def start(attention: AttentionChoice) -> None:
        writer.set_training_attention(attention)
        reporter.started = time.monotonic()

    def put_checkpoint(record: CheckpointRecord, weights: Weights) -> None:
        writer.put(record, weights if adapted is None else merge_adapters(adapted, weights))

    def put_state(state: TrainingState) -> None:
        # A training resumed from this state never writes the earlier checkpoints.
        writer.flush()
        with tempfile.TemporaryDirectory() as folder:
            write_state(state, Path(folder))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({}, checkpoint, checkpoint_dir_name=step_name(state.step))
        reporter.saved = time.monotonic()

    return Hooks(
        on_step=reporter.add_step,
        on_checkpoint=put_checkpoint,
        signal=reporter.signal,
        on_attention=start,
        on_state=put_state,
    )
