"""Planned and actual costs of a run, read back from its folder."""

from dataclasses import asdict
from pathlib import Path

from s2l_ray.artifacts.runs import record_run, write_plan
from s2l_ray.pipeline.estimates.actual import ActualStep, last_actual

STEP = ActualStep("dataset", 20.0, 25.0, None, 0.5, 4e8, 5e8, None, 1000, "probe")


def test_the_newest_run_that_built_something_is_read(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert last_actual(root, "a") == ()
    for actual in ([], [asdict(STEP)], []):
        entry = record_run(root, "a", {}, {})
        write_plan(root, "a", entry.started, {"actual": actual})
    assert last_actual(root, "a") == (STEP,)
    assert last_actual(root, "another") == ()
