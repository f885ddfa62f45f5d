"""The training of the proxy on Ray Train, from the driver.

A repeated call resumes from the newest state in storage, or returns the result of a complete training. Ray Train
uploads states and keeps two. The state to resume from is found by its own checksums, since Ray's list of them
(`checkpoint_manager_snapshot.json`) is written in place and a kill during the write damages it.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import ray
from ray.exceptions import RayError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.config import LoggingConfig
from ray.train.v2.api.exceptions import WorkerGroupError

from s2l_ray import storage
from s2l_ray.artifacts.schemas import step_name
from s2l_ray.artifacts.tables import FileRecord, find_complete_unit, record_of
from s2l_ray.core.training.settings import grid_steps
from s2l_ray.errors import DamagedError, S2LError
from s2l_ray.runtime.contracts import ActorHandle, Failure
from s2l_ray.runtime.failures import exception_from_failure, first_line, stall_message
from s2l_ray.runtime.training.job import (
    MEMORY_HINT,
    StoredCheckpoint,
    TrainJob,
    TrainProgress,
    TrainResult,
    TrainWorkers,
)
from s2l_ray.runtime.training.mailbox import open_mailbox
from s2l_ray.runtime.training.store import CHECKPOINT, HELD_OUT, RESUME, TRAINING, prune_states, read_checkpoint

POLL_SECONDS = 0.5
STOP_SECONDS = 60.0
STATES_KEPT = 2
SNAPSHOT = "checkpoint_manager_snapshot.json"


def train_proxy(job: TrainJob, workers: TrainWorkers, report: Callable[[TrainProgress], None]) -> TrainResult:
    """Train the proxy, or resume its training.

    report: called about twice a second. After an exception in it, such as Ctrl-C, the workers save a state and end.
    Raises `S2LError` at once for a failure of the training itself, and for workers that are lost more often than
    `workers.retries` without a newer saved state.
    """
    if (result := finished_training(job)) is not None:
        return result
    losses, saved = 0, prune_states(job.output, STATES_KEPT)
    while True:
        storage.delete_file(storage.join(job.output, RESUME, SNAPSHOT))
        try:
            _attempt(job, workers, report)
            break
        except _WorkersLost as error:
            newest = prune_states(job.output, STATES_KEPT)
            losses, saved = losses + 1 if newest <= saved else 1, newest
            if losses > workers.retries:
                raise S2LError(
                    f"train: lost workers {losses} time{'s' * (losses != 1)} since the state saved at step {saved} "
                    f"(last error: {error}). Run again to resume from step {saved}; if memory ran out, {MEMORY_HINT}"
                ) from error
            report(TrainProgress(note=f"lost workers ({error}); resuming from step {saved}"))
    if (result := finished_training(job)) is None:
        raise DamagedError(f"{job.output}: files of the training are missing or damaged; run again")
    return result


def finished_training(job: TrainJob) -> TrainResult | None:
    """The result of a complete training, or None."""
    tables = [find_complete_unit(job.output, path, {}) for path in (HELD_OUT, TRAINING)]
    if None in tables:
        return None
    try:
        checkpoints = [read_checkpoint(job.output, step) for step in planned_steps(job)]
    except (FileNotFoundError, DamagedError):
        return None
    files = [record for record in tables if record is not None]
    for checkpoint in checkpoints:
        files += _checkpoint_files(job.output, checkpoint)
    sizes = {entry.path: entry.bytes for entry in storage.list_files(job.output)}
    return TrainResult(checkpoints, files) if all(sizes.get(file.path) == file.bytes for file in files) else None


def planned_steps(job: TrainJob) -> list[int]:
    """The steps of the training's checkpoints."""
    return grid_steps(job.train_examples or job.rows_ok - job.held_out, job.settings)


class _WorkersLost(Exception):
    """Workers, or the connections between them, were lost; another attempt may succeed."""


def _attempt(job: TrainJob, workers: TrainWorkers, report: Callable[[TrainProgress], None]) -> None:
    mailbox = open_mailbox()
    fit = _Fit(_make_trainer(job, workers, mailbox))
    received, step, patience = time.monotonic(), 0, STOP_SECONDS
    try:
        while fit.is_running(POLL_SECONDS):
            if (progress := ray.get(mailbox.take.remote())) is not None:
                received, step = time.monotonic(), progress.step
                report(progress)
            elif time.monotonic() - received > workers.stall_minutes * 60:
                patience = 0.0  # workers that make no step cannot save and stop
                raise S2LError(_stalled(step, workers, ray.get(mailbox.workers.remote())))
        if (progress := ray.get(mailbox.take.remote())) is not None:
            report(progress)
        fit.raise_failure(ray.get(mailbox.failures.remote()))
    except RayError as error:
        raise S2LError(f"train: no reply from the workers: {_reason(error)}; run again") from error
    finally:
        if fit.is_running(0):
            mailbox.stop.remote()
            fit.is_running(patience)
        ray.kill(mailbox)  # type: ignore[arg-type]


def _stalled(step: int, workers: TrainWorkers, registered: list[str]) -> str:
    not_started = f"none of {workers.workers} workers is running"
    return stall_message(f"train, at step {step}", workers.stall_minutes, registered, not_started)


def _make_trainer(job: TrainJob, workers: TrainWorkers, mailbox: ActorHandle) -> TorchTrainer:
    filesystem, path = storage.filesystem(job.output)
    resources = {"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {})
    return TorchTrainer(
        lambda: _train_worker(job, mailbox),
        scaling_config=ScalingConfig(
            num_workers=workers.workers, use_gpu=workers.gpus > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=RESUME,
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=STATES_KEPT),
            # Ray cannot distinguish a failure of the training from a lost worker and would retry both; _Fit can.
            failure_config=FailureConfig(max_failures=0),
            logging_config=LoggingConfig(log_level="ERROR"),  # type: ignore[call-arg]
        ),
    )


def _train_worker(job: TrainJob, mailbox: ActorHandle) -> None:
    from s2l_ray.runtime.training.worker import train_worker  # imports transformers, which the driver does not need

    train_worker(job, mailbox)


class _Fit:
    """`trainer.fit()` in a thread, which keeps the driver free and Ray's Ctrl-C handler uninstalled."""

    def __init__(self, trainer: TorchTrainer) -> None:
        self._trainer = trainer
        self._error: Exception | None = None
        # Thread.join is unsuitable: interrupted by Ctrl-C it marks the thread as ended (CPython 3.11).
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="ray-train-fit", daemon=True).start()

    def _run(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:  # raised in the driver's thread
            self._error = error
        finally:
            self._ended.set()

    def is_running(self, seconds: float) -> bool:
        """Wait for the end for at most `seconds`. Returns whether it is still running."""
        return not self._ended.wait(seconds)

    def raise_failure(self, failures: list[Failure]) -> None:
        """Raise a failure that a worker posted, or `_WorkersLost`; return if the training succeeded."""
        if self._error is None:
            return
        if failures:
            raise exception_from_failure(failures[0]) from self._error
        # A worker that fails posts its failure before it ends; one that is killed does not.
        if isinstance(self._error, WorkerGroupError):
            raise _WorkersLost(_reason(self._error)) from self._error
        raise S2LError(f"train: Ray Train failed: {_reason(self._error)}") from self._error


def _reason(error: Exception) -> str:
    """One line: the first worker's failure, or Ray's own error."""
    cause = next(iter(error.worker_failures.values()), error) if isinstance(error, WorkerGroupError) else error
    cause = getattr(cause, "health_check_failure", cause)
    return first_line(str(cause).strip()) or type(cause).__name__


def _checkpoint_files(output: str, checkpoint: StoredCheckpoint) -> list[FileRecord]:
    """The files of a checkpoint with paths relative to the artifact."""
    folder = step_name(checkpoint.record.step)
    sealed = storage.read_bytes(storage.join(output, folder, CHECKPOINT))
    files = [replace(file, path=f"{folder}/{file.path}") for file in checkpoint.files]
    return [*files, record_of(f"{folder}/{CHECKPOINT}", sealed)]
