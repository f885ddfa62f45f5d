"""Trackers: TensorBoard files below the run's folder, mlflow, and wandb.

They receive numbers and the keys of the job file, never text of rows. Addresses and keys come from the environment, by
the variables of each library. A library is imported when a run that needs it starts.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import environ
from pathlib import Path
from typing import Protocol

from s2l_ray import storage
from s2l_ray.artifacts.runs import TENSORBOARD
from s2l_ray.config.sections import Config
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.tracking.curves import Point

PROJECT = "s2l"
# runs of these alone take seconds, of which the import of tensorboardX, and so of torch, would be two
WITHOUT_TENSORBOARD = {"clusters", "subset"}
# limits of one request to an mlflow server
MOST_METRICS, MOST_PARAMETERS, LONGEST_PARAMETER = 1000, 100, 500


@dataclass(frozen=True)
class TrackedRun:
    """A run to track. folder: URI of its folder. keys: dotted keys of the job that are not the defaults."""

    name: str
    folder: str
    keys: Mapping[str, object]


class Tracker(Protocol):
    """Receives the points of a run. It is started by its constructor, and may raise anything."""

    def log(self, points: Sequence[Point]) -> None:
        """Record points, in any order of the axes and in order of the steps of each."""

    def flush(self) -> None:
        """Make what was recorded visible to readers."""

    def finish(self, succeeded: bool) -> None:
        """Record the end of the run."""


class TensorBoard:
    """Event files in `tensorboard/` of the run's folder, which store values as float32.

    The files are written to a local folder and put from there, since the root may be an object store.
    """

    def __init__(self, run: TrackedRun) -> None:
        from tensorboardX import SummaryWriter

        self._target = storage.join(run.folder, TENSORBOARD)
        self._local = tempfile.TemporaryDirectory(prefix="s2l-tensorboard-")
        self._writer = SummaryWriter(self._local.name)

    def log(self, points: Sequence[Point]) -> None:
        for point in points:
            for name, value in point.named().items():
                self._writer.add_scalar(name, value, point.step)

    def flush(self) -> None:
        self._writer.flush()  # a thread writes the newest points a moment later
        self._put_files()

    def finish(self, succeeded: bool) -> None:
        self._writer.close()  # waits for that thread
        self._put_files()
        self._local.cleanup()

    def _put_files(self) -> None:
        for path in Path(self._local.name).iterdir():
            storage.put_file(path, storage.join(self._target, path.name))


class MLflow:
    """A run of the experiment MLFLOW_EXPERIMENT_NAME, or `s2l`, on the server MLFLOW_TRACKING_URI."""

    def __init__(self, run: TrackedRun) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client, experiment = MlflowClient(), environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found is not None else self._client.create_experiment(experiment)
        self._run: str = self._client.create_run(number, run_name=run.name, tags={"folder": run.folder}).info.run_id
        parameters = [Param(key, str(value)[:LONGEST_PARAMETER]) for key, value in run.keys.items()]
        for start in range(0, len(parameters), MOST_PARAMETERS):
            self._client.log_batch(self._run, params=parameters[start : start + MOST_PARAMETERS])

    def log(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        metrics = [Metric(name, value, now, one.step) for one in points for name, value in one.named().items()]
        for start in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self._run, metrics=metrics[start : start + MOST_METRICS])

    def flush(self) -> None:
        """Requests are answered when the server has stored them."""

    def finish(self, succeeded: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if succeeded else "FAILED")


class WandB:
    """A run of the project WANDB_PROJECT, or `s2l`; each axis has its own step, `AXIS/step`."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        if "WANDB_API_KEY" not in environ and environ.get("WANDB_MODE", "online") not in ("offline", "disabled"):
            raise ConfigError("no key; export WANDB_API_KEY, or WANDB_MODE=offline")
        settings = wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True)
        project = environ.get("WANDB_PROJECT", PROJECT)
        self._run = wandb.init(project=project, name=run.name, config=dict(run.keys), settings=settings)
        self._axes: set[str] = set()

    def log(self, points: Sequence[Point]) -> None:
        for point in points:
            step = f"{point.axis}/step"
            if point.axis not in self._axes:
                self._axes.add(point.axis)
                self._run.define_metric(step, hidden=True)
                self._run.define_metric(f"{point.axis}/*", step_metric=step)
            self._run.log({**point.named(), step: point.step})

    def flush(self) -> None:
        """A process of the library sends what was recorded."""

    def finish(self, succeeded: bool) -> None:
        self._run.finish(exit_code=0 if succeeded else 1)


TRACKERS: dict[str, Callable[[TrackedRun], Tracker]] = {"mlflow": MLflow, "wandb": WandB}


def start_trackers(
    config: Config, folder: str, kinds: Collection[str], note: Callable[[str], None]
) -> dict[str, Tracker]:
    """The trackers that a job names, and that of TensorBoard for a run that builds `kinds`.

    Raises `ConfigError` for a named one that cannot be started, so that nothing is computed without the record asked
    for. TensorBoard is left out with a note.
    """
    run = TrackedRun(config.run, folder, dict(_keys(config.model_dump(mode="json", exclude_defaults=True))))
    started: dict[str, Tracker] = {}
    if not WITHOUT_TENSORBOARD.issuperset(kinds):
        try:
            started["tensorboard"] = TensorBoard(run)
        except Exception as error:
            note(f"no TensorBoard files: {error}")
    for name in dict.fromkeys(config.track):
        try:
            started[name] = TRACKERS[name](run)
        except Exception as error:
            for tracker in started.values():
                with contextlib.suppress(Exception):
                    tracker.finish(succeeded=False)
            raise ConfigError(f"track: {name} could not be started: {error}") from error
    return started


def _keys(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys of nested sections."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
