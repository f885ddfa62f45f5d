"""A probe, the plan that it makes possible, and the run that the plan was for."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from s2l_ray.artifacts.facts import DatasetFacts
from s2l_ray.artifacts.fingerprint import unseal
from s2l_ray.cli import app
from s2l_ray.config.load import load_config
from s2l_ray.pipeline.estimates.job import estimate_job
from s2l_ray.pipeline.estimates.record import read_record
from s2l_ray.pipeline.plan import plan
from tests.support.jobs import small_job

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("ray_session")]

TARGET = {"compute": {"steps": 40}, "learning_rate": 5e-3, "batch_size": 8, "precision": "float32"}


def test_probe_plan_run(tmp_path: Path) -> None:
    job = small_job(tmp_path)
    values = yaml.safe_load(job.read_text())
    values |= {"target": {"model": values["proxy"]["model"], **TARGET}, "prices": {"cpu_hour": 0.1}}
    job.write_text(yaml.safe_dump(values, sort_keys=False))
    command = [str(job), "--to", "evaluation"]
    refused = CliRunner().invoke(app, ["run", *command, "--max-cost", "20"])
    assert refused.exit_code == 2 and "s2l_ray probe" in refused.output.replace("s2l probe", "s2l_ray probe")

    probed = CliRunner().invoke(app, ["probe", *command, "--minutes", "10", "--json"])
    assert probed.exit_code == 0, probed.output
    root = Path(values["root"])
    assert not list((root / "probe").glob("*"))
    planned = plan(load_config(job), "evaluation")
    kinds = [step.kind for step in planned.missing]
    assert [one.kind for one in read_record(str(root)).measurements] == kinds
    estimated = estimate_job(planned)
    assert estimated.seconds is not None and estimated.money is not None and not estimated.payback.unpriced
    assert {one.sources["seconds"] for one in estimated.steps} == {"probe"}

    assert CliRunner().invoke(app, ["run", *command, "--max-cost", "1e-9"]).exit_code == 2
    run = CliRunner().invoke(app, ["run", *command, "--max-cost", "20", "--max-hours", "2", "--no-report"])
    assert run.exit_code == 0, run.output
    (file,) = (root / "runs" / "small").glob("*/plan.json")
    record = unseal(file.read_bytes(), str(file))
    assert [one["kind"] for one in record["actual"]] == kinds
    assert all(one["peak_bytes"] and one["seconds"] and one["money"] is not None for one in record["actual"])
    dataset = record["estimate"]["steps"][0]
    artifact = plan(load_config(job), "dataset").artifact("dataset")
    assert artifact is not None and dataset["rows"] == pytest.approx(artifact.facts(DatasetFacts).ok, rel=0.1)

    again = json.loads(CliRunner().invoke(app, ["plan", *command, "--json"]).stdout)
    assert again["version"] == 1 and again["estimate"]["seconds"] == 0
