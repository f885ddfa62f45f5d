"""Planned and actual costs of a run, read back from its folder."""

from dataclasses import asdict, replace
from pathlib import Path

from s2l_ray.artifacts.runs import record_run, write_plan
from s2l_ray.config.sections import Prices
from s2l_ray.pipeline.costs import artifact_cost
from s2l_ray.pipeline.estimates.actual import ActualStep, actual_steps, last_actual
from s2l_ray.pipeline.estimates.steps import StepEstimate
from tests.support.pool_artifacts import PoolRow, write_dataset

STEP = ActualStep("dataset", 20.0, 25.0, None, 0.5, 4e8, 5e8, None, 1000, "probe")


def test_the_newest_run_that_built_something_is_read(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert last_actual(root, "a") == ()
    for actual in ([], [asdict(STEP)], []):
        entry = record_run(root, "a", {}, {})
        write_plan(root, "a", entry.started, {"actual": actual})
    assert last_actual(root, "a") == (STEP,)
    assert last_actual(root, "another") == ()


def test_a_stage_costs_the_workers_that_it_had(tmp_path: Path) -> None:
    """The job leaves their number to the cluster, so that only the manifest has it."""
    artifact = write_dataset(str(tmp_path / "dataset" / "a"), [[PoolRow("row")]])
    config = {"resources": {"prepare": {"workers": "auto"}}}
    timings = {"seconds": 7200.0, "workers": 3, "peak_bytes": 500}
    artifact = replace(artifact, manifest=replace(artifact.manifest, config=config, timings=timings))
    prices = Prices(cpu_hour=0.5)
    assert artifact_cost(artifact, prices).money == 3.0
    resumed = replace(artifact, manifest=replace(artifact.manifest, timings={"seconds": 7200.0}))
    assert artifact_cost(resumed, prices).money is None
    (step,) = actual_steps([StepEstimate("dataset", "a", seconds=3600.0, money=1.0)], {"dataset": artifact}, prices)
    assert (step.planned_seconds, step.seconds, step.planned_money, step.money) == (3600.0, 7200.0, 1.0, 3.0)
    assert (step.peak_bytes, step.stored_bytes) == (500, sum(file.bytes for file in artifact.manifest.files))
