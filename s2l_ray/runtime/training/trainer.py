"""A training on Ray Train, from the driver.

A repeated call resumes from the newest state in storage, or returns the result of a complete training. Ray Train
uploads states and keeps two. The state to resume from is found by its own checksums, since Ray's list of them
(`checkpoint_manager_snapshot.json`) is written in place and a kill during the write damages it.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait

import ray
from ray.exceptions import RayError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.config import LoggingConfig
from ray.train.v2.api.exceptions import PreemptionError, WorkerGroupError

from s2l_ray import storage
from s2l_ray.artifacts.schemas import HELD_OUT_TABLE, RESUME_FOLDER, TRAINING_TABLE
from s2l_ray.artifacts.tables import find_complete_unit
from s2l_ray.errors import DamagedError, S2LError
from s2l_ray.runtime.contracts import ActorHandle, Failure, Progress, Report
from s2l_ray.runtime.failures import engine_error, exception_from_failure, first_line
from s2l_ray.runtime.monitor import StallError, start_monitor, watch
from s2l_ray.runtime.training.job import MEMORY_HINT, TrainJob, TrainResult, TrainWorkers
from s2l_ray.runtime.training.store import prune_states, read_checkpoint

STOP_SECONDS = 60.0
STATES_KEPT = 2
SNAPSHOT = "checkpoint_manager_snapshot.json"


def run_training(job: TrainJob, workers: TrainWorkers, report: Report) -> TrainResult:
    """Train a model, or resume its training.

    report: called about twice a second. After an exception in it, such as Ctrl-C, the workers save a state and end.
    Raises `S2LError` at once for a failure of the training itself, and for workers that are lost more often than
    `workers.retries` without a newer saved state.
    """
    if (result := finished_training(job)) is not None:
        return result
    losses, saved = 0, prune_states(job.output, STATES_KEPT)
    while True:
        storage.delete_file(storage.join(job.output, RESUME_FOLDER, SNAPSHOT))
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
            warning = f"lost workers ({error}); resuming from step {saved}"
            report(Progress(workers.task().kind, failures=1, warning=warning))
    if (result := finished_training(job)) is None:
        raise DamagedError(f"{job.output}: files of the training are missing or damaged; run again")
    return result


def finished_training(job: TrainJob) -> TrainResult | None:
    tables = [find_complete_unit(job.output, path, {}) for path in (HELD_OUT_TABLE, TRAINING_TABLE)]
    if None in tables:
        return None
    try:
        checkpoints = [read_checkpoint(job.output, step) for step in job.planned_steps()]
    except (FileNotFoundError, DamagedError):
        return None
    files = [record for record in tables if record] + [file for one in checkpoints for file in one.files]
    sizes = {entry.path: entry.bytes for entry in storage.list_files(job.output)}
    return TrainResult(checkpoints, files) if all(sizes.get(file.path) == file.bytes for file in files) else None


class _WorkersLost(Exception):
    """Workers, or the connections between them, were lost; another attempt may succeed."""


def _attempt(job: TrainJob, workers: TrainWorkers, report: Report) -> None:
    task = workers.task()
    monitor = start_monitor(task)
    fit = _start(_make_trainer(job, workers, monitor).fit)
    patience = STOP_SECONDS
    try:
        failures = watch(monitor, task, lambda seconds: not wait([fit], seconds).done, report)
        _raise_failure(fit.exception(), failures)
    except StallError:
        patience = 0.0  # workers that make no step cannot save and stop
        raise
    except RayError as error:
        raise engine_error(error, task) from error
    finally:
        if not fit.done():
            monitor.stop.remote()
            wait([fit], patience)
        ray.kill(monitor)  # type: ignore[arg-type]


def _start(function: Callable[[], object]) -> Future[object]:
    """Call a function in a daemon thread, which leaves Ray's Ctrl-C handler uninstalled and does not block the exit."""
    future: Future[object] = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # raised in the driver's thread
            future.set_exception(error)

    threading.Thread(target=call, name="ray-train-fit", daemon=True).start()
    return future


def _raise_failure(error: BaseException | None, failures: Sequence[Failure]) -> None:
    """Raise a failure that a worker reported, or `_WorkersLost`; return if the training succeeded."""
    if error is None:
        return
    if failures:
        raise exception_from_failure(failures[0]) from error
    # A worker that fails reports its failure before it ends; one that is killed does not.
    if isinstance(error, WorkerGroupError | PreemptionError):
        raise _WorkersLost(_reason(error)) from error
    raise S2LError(f"train: Ray Train failed: {_reason(error)}") from error


def _make_trainer(job: TrainJob, workers: TrainWorkers, monitor: ActorHandle) -> TorchTrainer:
    filesystem, path = storage.filesystem(job.output)
    task = workers.task()

    def train() -> None:
        from s2l_ray.runtime.training.worker import train_worker  # imports transformers, which the driver does not need

        train_worker(job, task, monitor)

    return TorchTrainer(
        train,
        scaling_config=ScalingConfig(
            num_workers=workers.workers, use_gpu=workers.gpus > 0, resources_per_worker=task.request.per_worker()
        ),
        run_config=RunConfig(
            name=RESUME_FOLDER,
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=STATES_KEPT),
            # Ray cannot distinguish a failure of the training from a lost worker and would retry both.
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),  # type: ignore[call-arg]
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def _reason(error: BaseException) -> str:
    """One line: the first worker's failure, or Ray's own error."""
    cause = next(iter(error.worker_failures.values()), error) if isinstance(error, WorkerGroupError) else error
    cause = getattr(cause, "health_check_failure", cause)
    return first_line(str(cause).strip()) or type(cause).__name__
