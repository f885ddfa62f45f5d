"""The proxy's training on Ray Train, from the driver's side.

In: a `TrainJob` and what its workers get. Out: `TrainProgress` about twice a second, and at the end a `TrainResult`.
The same call again goes on from the newest state in storage, or finds all done. Ray keeps two states and uploads them;
which one a training goes on from is read from the states themselves, since Ray's own list of them
(`checkpoint_manager_snapshot.json`) is written in place and a kill in that moment would leave it broken.
"""

import threading
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.config import LoggingConfig
from ray.train.v2.api.exceptions import WorkerGroupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from s2l_ray import storage
from s2l_ray.artifacts.schemas import step_name
from s2l_ray.artifacts.tables import FileRecord, decode_intact, record_of
from s2l_ray.core.training.settings import grid_steps
from s2l_ray.errors import DamagedError, S2LError
from s2l_ray.runtime.failures import from_record
from s2l_ray.runtime.training.job import LOWER, TrainJob, TrainProgress
from s2l_ray.runtime.training.mailbox import Mailbox
from s2l_ray.runtime.training.store import CHECKPOINT, HELD_OUT, RESUME, TRAINING, prune_states, read_checkpoint

POLL_SECONDS = 0.5
STOP_SECONDS = 60.0
STATES_KEPT = 2
SNAPSHOT = "checkpoint_manager_snapshot.json"


@dataclass(frozen=True)
class TrainWorkers:
    """Workers of a training, and what each gets of Ray's CPUs and GPUs.

    `retries`: how often lost ones are replaced without a newer state. `stall_minutes`: how long no step may end.
    """

    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 3
    stall_minutes: float = 30.0


@dataclass(frozen=True)
class TrainResult:
    """A finished training: the sealed records of its checkpoints by step, and every file of it for the manifest."""

    checkpoints: list[dict[str, Any]]
    files: list[FileRecord]


Training = Generator[TrainProgress, None, TrainResult]


def train_proxy(job: TrainJob, workers: TrainWorkers) -> Training:
    """Train the proxy, or what is left of it.

    Closing the generator, or an exception in it such as Ctrl-C, has the workers save a state and end. Raises `S2LError`
    for a failure of the training itself, at once, and for workers that are lost again and again at one place.
    """
    if (result := finished_training(job)) is not None:
        return result
    lost, saved = 0, prune_states(job.output, STATES_KEPT)
    while True:
        storage.delete_file(storage.join(job.output, RESUME, SNAPSHOT))
        try:
            yield from _attempt(job, workers)
            break
        except _WorkersLost as error:
            newest = prune_states(job.output, STATES_KEPT)
            lost, saved = lost + 1 if newest <= saved else 1, newest
            if lost > workers.retries:
                raise S2LError(
                    f"train: workers were lost {lost} times since step {saved} was saved, last: {error}; "
                    f"lower {LOWER} if memory ran out, then run again: it goes on from there"
                ) from error
            yield TrainProgress(0, 0, 0, 0, 0, 0, 0, note=f"workers were lost ({error}); going on from the last state")
    if (result := finished_training(job)) is None:
        raise DamagedError(f"{job.output}: not what the training put there; run again")
    return result


def finished_training(job: TrainJob) -> TrainResult | None:
    """The result, if the training is over and all of it is in storage."""
    tables = [_table_record(job.output, path) for path in (HELD_OUT, TRAINING)]
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
    """The steps whose checkpoints the training leaves."""
    return grid_steps(job.train_examples or job.rows_ok - job.held_out, job.settings)


def discard_states(output: str) -> None:
    """Remove what only a training that goes on would need."""
    storage.delete_folder(storage.join(output, RESUME))


class _WorkersLost(Exception):
    """Workers, or the connections between them, are gone; another attempt may succeed."""


def _attempt(job: TrainJob, workers: TrainWorkers) -> Generator[TrainProgress, None, None]:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = Mailbox.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    fit = _Fit(_make_trainer(job, workers, mailbox))
    heard, step, patience = time.monotonic(), 0, STOP_SECONDS
    try:
        while fit.running(POLL_SECONDS):
            if (progress := ray.get(mailbox.take.remote())) is not None:
                heard, step = time.monotonic(), progress.step
                yield progress
            elif time.monotonic() - heard > workers.stall_minutes * 60:
                patience = 0.0  # who does not step does not stop either
                raise S2LError(_stalled(step, workers, ray.get(mailbox.places.remote())))
        if (progress := ray.get(mailbox.take.remote())) is not None:
            yield progress
        fit.raise_failure(ray.get(mailbox.failures.remote()))
    except RayError as error:
        raise S2LError(f"train: no word from the workers: {_reason(error)}; run again") from error
    finally:
        if fit.running(0):
            mailbox.stop.remote()
            fit.running(patience)
        ray.kill(mailbox)


def _stalled(step: int, workers: TrainWorkers, places: list[str]) -> str:
    where = "".join(f"\n  {place}" for place in places) or f"\n  none of {workers.workers} has begun"
    return (
        f"train: no step for {workers.stall_minutes:g} minutes; the last was step {step}. The workers:{where}\n"
        "look there for what they wait for, and run again: it goes on from the last saved state; raise "
        "resources.stall_minutes if a step, or what comes before the first, takes that long"
    )


def _make_trainer(job: TrainJob, workers: TrainWorkers, mailbox: Any) -> TorchTrainer:
    filesystem, path = storage.filesystem(job.output)
    resources = {"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {})
    return TorchTrainer(
        lambda: _work(job, mailbox),
        scaling_config=ScalingConfig(
            num_workers=workers.workers, use_gpu=workers.gpus > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=RESUME,
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=STATES_KEPT),
            # Ray cannot tell a failure of the training from a lost worker, and would repeat either; _Fit can
            failure_config=FailureConfig(max_failures=0),
            logging_config=LoggingConfig(log_level="ERROR"),  # type: ignore[call-arg]
        ),
    )


def _work(job: TrainJob, mailbox: Any) -> None:
    from s2l_ray.runtime.training.worker import train_worker  # transformers is for the workers alone

    train_worker(job, mailbox)


class _Fit:
    """`trainer.fit()` in a thread: the driver stays free, and Ray leaves its Ctrl-C handler uninstalled."""

    def __init__(self, trainer: TorchTrainer) -> None:
        self._trainer = trainer
        self._error: Exception | None = None
        # not Thread.join: interrupted by Ctrl-C it takes the thread for ended (CPython 3.11)
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="ray-train", daemon=True).start()

    def _run(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:  # raised in the driver's own thread
            self._error = error
        finally:
            self._ended.set()

    def running(self, seconds: float) -> bool:
        """Whether it still runs after that many seconds at most."""
        return not self._ended.wait(seconds)

    def raise_failure(self, failures: list[dict[str, str]]) -> None:
        """Raise the training's own failure, or `_WorkersLost`; return where it ended well."""
        if self._error is None:
            return
        own = [failure for failure in failures if not failure["peer"]]
        if own:
            raise from_record(own[0]) from self._error
        # a worker that fails by itself says so in the mailbox, one that is killed does not
        if isinstance(self._error, WorkerGroupError):
            raise _WorkersLost(_reason(self._error)) from self._error
        raise S2LError(f"train: Ray Train failed: {_reason(self._error)}") from self._error


def _reason(error: Exception) -> str:
    """One line: of the first worker's failure where workers failed, of Ray's own error where it found a dead one."""
    cause = next(iter(error.worker_failures.values()), error) if isinstance(error, WorkerGroupError) else error
    cause = getattr(cause, "health_check_failure", cause)
    return next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)


def _table_record(output: str, path: str) -> FileRecord | None:
    try:
        data = storage.read_bytes(storage.join(output, path))
    except FileNotFoundError:
        return None
    table = decode_intact(data)
    return record_of(path, data, table.num_rows) if table is not None else None


def _checkpoint_files(output: str, checkpoint: dict[str, Any]) -> list[FileRecord]:
    folder = step_name(checkpoint["step"])
    files = [FileRecord(**file) for file in checkpoint["files"]]
    sealed = storage.read_bytes(storage.join(output, folder, CHECKPOINT))
    listed = [FileRecord(**{**asdict(file), "path": f"{folder}/{file.path}"}) for file in files]
    return [*listed, record_of(f"{folder}/{CHECKPOINT}", sealed)]
