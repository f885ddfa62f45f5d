"""Experiments up to evaluation as a user runs them: killed with SIGKILL and resumed, the results are the same."""

import csv
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from s2l_ray.cli import app
from tests.support.driver import finish_run, kill_driver_when
from tests.support.jobs import copy_job, small_job

pytestmark = pytest.mark.long

TARGET = {"compute": {"steps": 40}, "learning_rate": 5e-3, "batch_size": 8, "precision": "float32"}
ARMS = {"s2l": {}, "random": {"select.method": "random"}, "none": {"target.rows": "none"}}


def write_experiment(job: Path) -> Path:
    path = job.parent / "experiment.yaml"
    path.write_text(yaml.safe_dump({"job": job.name, "to": "evaluation", "arms": ARMS}, sort_keys=False))
    return path


def results(experiment: Path) -> list[dict[str, str]]:
    """The scores, without what depends on the clock."""
    table = experiment.parent / "results.csv"
    found = CliRunner().invoke(app, ["compare", str(experiment), "--to", str(table)])
    assert found.exit_code == 0, found.output
    rows = list(csv.DictReader(table.open()))
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]


def test_killed_in_the_training_of_a_target(tmp_path: Path) -> None:
    job = small_job(tmp_path / "undisturbed")
    values = yaml.safe_load(job.read_text())
    target = {"model": values["proxy"]["model"], **TARGET}
    job.write_text(yaml.safe_dump(values | {"target": target}, sort_keys=False))
    experiment = write_experiment(job)
    finish_run(experiment, seconds=900)

    killed = write_experiment(copy_job(job, tmp_path / "killed", "dataset", "checkpoints", "trajectories"))
    states = killed.parent / "artifacts" / "target"
    kill_driver_when(killed, lambda: bool(list(states.glob("*/resume/step-*/state.json"))), seconds=600)
    assert not list((killed.parent / "artifacts").glob("target/*/manifest.json"))
    finish_run(killed, seconds=900)

    found = results(killed)
    assert found == results(experiment)
    losses = {row["arm"]: float(row["macro loss"]) for row in found}
    assert losses["none"] > max(losses["s2l"], losses["random"])
