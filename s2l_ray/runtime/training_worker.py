"""What each worker of a training does.

In: a `TrainJob` and a mailbox to the driver, inside a process that Ray Train has started and connected with the others.
Out: checkpoints, states and tables in storage, progress and failures in the mailbox.
"""

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import get_device
from transformers import PreTrainedModel

from s2l_ray.artifacts import storage
from s2l_ray.artifacts.errors import S2LError
from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.artifacts.schemas import step_name
from s2l_ray.core.causal_lm import init_model, load_model
from s2l_ray.core.finetune import FinetuneSettings, Hooks, Signal, finetune, total_steps
from s2l_ray.core.history import CheckpointRecord, StepRecord
from s2l_ray.core.schedule import sample_train, split_held_out
from s2l_ray.core.token_rows import TokenRows
from s2l_ray.core.training_state import TrainingState
from s2l_ray.runtime.checkpoint_store import CheckpointWriter, newest_state, put_tables, read_state, write_state
from s2l_ray.runtime.failures import Record, to_record

POST_SECONDS = 0.5
LOWER = "resources.train.micro_batch"


@dataclass(frozen=True)
class TrainJob:
    """One training, in plain values that travel to the workers.

    output: URI of the checkpoints artefact. dataset: URI of a finished dataset with `rows_ok` rows of status ok and its
    tokenizer in `tokenizer/`. model: a local folder, a folder's URI, a hub id (of `revision`), or the fields of a
    config for `init_model`, which then also needs `vocab_size`. threads: torch threads of each worker. save_minutes:
    between states, by the clock.
    """

    output: str
    dataset: str
    rows_ok: int
    model: str | dict[str, Any]
    settings: FinetuneSettings
    held_out: int = 0
    train_examples: int | None = None
    revision: str | None = None
    vocab_size: int = 0
    threads: int = 1
    save_minutes: float = 5.0


@dataclass(frozen=True)
class TrainProgress:
    """Where a training is. Rates are of this run of it; `note` is a line to keep."""

    step: int
    total_steps: int
    loss: float
    learning_rate: float
    tokens_per_second: float
    examples_per_second: float
    seconds_left: float
    note: str = ""


@ray.remote(num_cpus=0)
class Mailbox:
    """Between driver and workers: progress and failures one way, the wish to stop the other."""

    def __init__(self) -> None:
        self._progress: TrainProgress | None = None
        self._failures: list[Record] = []
        self._stop = False

    def post(self, progress: TrainProgress) -> bool:
        """Leave the latest progress; says whether to stop."""
        self._progress = progress
        return self._stop

    def post_failure(self, failure: Record) -> None:
        self._failures.append(failure)

    def take(self) -> tuple[TrainProgress | None, list[Record]]:
        """What came since the last time."""
        taken = self._progress, self._failures
        self._progress, self._failures = None, []
        return taken

    def stop(self) -> None:
        self._stop = True


def train_worker(job: TrainJob, mailbox: Any) -> None:
    """Train, from the newest state on. Leaves a failure in the mailbox before it raises it."""
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
    model = _make_model(job)
    _check_fit(model, [train_rows, held_out_rows])
    resumed = broadcast_from_rank_zero(newest_state(job.output) if _is_first() else None)
    state = read_state(job.output, resumed) if resumed is not None else None
    total = total_steps(len(train_rows), job.settings)
    with tempfile.TemporaryDirectory() as cache:
        tokenizer = dataset.fetch("tokenizer", Path(cache))
        reporter = _Reporter(mailbox, total, job.settings.batch_size, job.save_minutes * 60)
        writer = CheckpointWriter(job.output, model, tokenizer)
        model.to(get_device())
        history = finetune(model, train_rows, held_out_rows, job.settings, _hooks(writer, reporter), state)
        writer.flush()
    if _is_first() and len(history.steps) == total:
        put_tables(job.output, history)


def _is_first() -> bool:
    return int(ray.train.get_context().get_world_rank()) == 0


def _read(job: TrainJob, dataset: Artifact) -> list[TokenRows]:
    from s2l_ray.runtime.training_rows import read_rows

    train_index, held_out_index = split_held_out(job.rows_ok, job.held_out, job.settings.seed)
    train_index = sample_train(train_index, job.train_examples, job.settings.seed)
    return read_rows(dataset, job.rows_ok, [train_index, held_out_index])


def _make_model(job: TrainJob) -> PreTrainedModel:
    if isinstance(job.model, dict):
        return init_model(job.model, job.vocab_size, job.settings.seed)
    return load_model(_local_model(job.model, job.revision))


def _local_model(name: str, revision: str | None) -> Path:
    if not storage.is_local(name) or storage.local_path(name).is_dir():
        return storage.fetch_folder(name)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, revision=revision, allow_patterns=["*.safetensors", "*.json"]))


def _check_fit(model: PreTrainedModel, parts: list[TokenRows]) -> None:
    """Refuse rows that the model has no embedding or no position for."""
    vocab_size = model.get_input_embeddings().num_embeddings
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


@dataclass
class _Reporter:
    """Rank 0's clock: when to tell the driver, when to save a state, when to stop."""

    mailbox: Any
    total: int
    batch_size: int
    save_seconds: float
    posted: float = 0.0
    began: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)
    steps: int = 0
    tokens: int = 0
    answer: Any = None
    stopping: bool = False

    def step(self, record: StepRecord) -> None:
        now = time.monotonic()
        self.steps += 1
        self.tokens += record.tokens
        if now - self.posted < POST_SECONDS and record.step < self.total:
            return
        self.posted = now
        seconds = now - self.began
        progress = TrainProgress(
            step=record.step,
            total_steps=self.total,
            loss=record.loss,
            learning_rate=record.learning_rate,
            tokens_per_second=self.tokens / seconds,
            examples_per_second=self.steps * self.batch_size / seconds,
            seconds_left=(self.total - record.step) * seconds / self.steps,
        )
        self._hear()
        self.answer = self.mailbox.post.remote(progress)

    def signal(self, step: int) -> Signal:
        self._hear()
        if self.stopping:
            return "save and stop"
        if time.monotonic() - self.saved < self.save_seconds or step == self.total:
            return "go on"
        return "save"

    def state_is_saved(self) -> None:
        self.saved = time.monotonic()

    def _hear(self) -> None:
        """Read the driver's answer to the last post once it is there."""
        if self.answer is not None and ray.wait([self.answer], timeout=0)[0]:
            self.stopping = self.stopping or ray.get(self.answer)
            self.answer = None


def _hooks(writer: CheckpointWriter, reporter: _Reporter) -> Hooks:
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

    return Hooks(on_step=step, on_checkpoint=put_checkpoint, signal=reporter.signal, on_state=put_state)
