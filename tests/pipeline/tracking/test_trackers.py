"""Trackers record the same curve, in stores of every kind; what cannot be started is refused."""

import sys
from pathlib import Path

import numpy as np
import pytest

from s2l_ray import storage
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.config.load import make_config
from s2l_ray.config.sections import Config
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.tracking.curves import artifact_points
from s2l_ray.pipeline.tracking.recorder import recording
from s2l_ray.pipeline.tracking.trackers import start_trackers
from s2l_ray.runtime.contracts import Progress, ignore_progress
from tests.support.tracked_training import Curves, put_training, read_mlflow, read_tensorboard, read_wandb

POSITION = Progress("trajectories", 3, 8, "units", {"rows": 70}, 3.0)
HELD_OUT = "checkpoints/held_out_loss"


def job(root: str, *track: str) -> Config:
    values = {"root": root, "run": "tracked", "track": list(track), "score": {"losses_from": LOSSES}}
    return make_config({**values, "select": {"budget": 5}}, "job.yaml")


LOSSES = {"path": "losses.parquet", "values": "loss"}


def record(config: Config, folder: str) -> Artifact:
    """Record a position, and a complete training."""
    artifact = put_training(config.root)
    with recording(config, folder, ["checkpoints"], ignore_progress) as recorder:
        recorder.report(POSITION)
        recorder.complete(artifact, "")
    return artifact


def expected(artifact: Artifact) -> Curves:
    """The points of the artifact by name, and the rate of the position."""
    curves: Curves = {"progress/trajectories/units/rows_per_second": [(3, 70 / 3)]}
    for point in artifact_points(artifact, ""):
        for name, value in point.named().items():
            curves.setdefault(name, []).append((point.step, value))
    return curves


def as_float32(curves: Curves) -> Curves:
    return {name: [(step, float(np.float32(value))) for step, value in curve] for name, curve in curves.items()}


@pytest.mark.parametrize("place", ["disk", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_tensorboard_files_hold_the_curve_in_float32(place: str) -> None:
    artifact = record(job(storage.join(place, "root")), storage.join(place, "run"))
    assert read_tensorboard(storage.join(place, "run", "tensorboard")) == as_float32(expected(artifact))
    assert len(expected(artifact)[HELD_OUT]) == 2


@pytest.mark.long
def test_tensorboard_mlflow_and_wandb_record_the_same_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("mlflow", "wandb"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 's2l_ray[mlflow,wandb]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    artifact = record(job(str(tmp_path / "root"), "mlflow", "wandb"), str(tmp_path / "run"))
    curves = expected(artifact)
    assert read_tensorboard(str(tmp_path / "run" / "tensorboard")) == as_float32(curves)
    assert read_mlflow("tracked", "s2l") == curves
    assert read_wandb(tmp_path / "wandb") == curves


@pytest.mark.long
def test_wandb_without_a_key_is_refused_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="WANDB_API_KEY"):
        start_trackers(job(str(tmp_path), "wandb"), str(tmp_path / "run"), ["subset"], print)


@pytest.mark.parametrize("kinds", [["subset"], ["clusters", "subset"], ["trajectories", "clusters", "subset"]])
def test_a_run_of_seconds_writes_no_tensorboard_files(tmp_path: Path, kinds: list[str]) -> None:
    started = start_trackers(job(str(tmp_path)), str(tmp_path / "run"), kinds, print)
    assert ("tensorboard" in started) == ("trajectories" in kinds)


def test_without_its_package_tensorboard_is_left_out_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)  # as if it was not installed
    notes: list[str] = []
    assert start_trackers(job(str(tmp_path)), str(tmp_path / "run"), ["checkpoints"], notes.append) == {}
    assert len(notes) == 1 and "tensorboardX" in notes[0]
