"""`plan` and the limits of `run`, which start nothing."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from s2l_ray.cli import app
from tests.support.jobs import small_job

JOBS = Path(__file__).parents[1] / "jobs"


@pytest.mark.parametrize("limit", [["--max-cost", "20"], ["--max-hours", "1"]])
def test_a_run_of_unknown_cost_is_refused_with_the_table(tmp_path: Path, limit: list[str]) -> None:
    job = small_job(tmp_path, rows=50)
    found = CliRunner().invoke(app, ["run", str(job), *limit])
    assert found.exit_code == 2
    assert "trajectories" in found.output and f"probe {job}" in found.output
    assert not (tmp_path / "artifacts").exists()


def test_the_break_even_point_of_the_published_job_is_known_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    job = [str(JOBS / "paper_math.yaml"), "--set", f"root={tmp_path}", "--to", "target"]
    found = CliRunner().invoke(app, ["plan", *job, "--json"])
    assert found.exit_code == 0, found.output
    values = json.loads(found.stdout)
    paid = values["estimate"]["payback"]
    # three epochs of 262,040 and of 50,000 rows in batches of 128 rows of 172 tokens, at 6 FLOPs a parameter and token
    full, subset = (6 * 2779683840 * 3 * (rows // 128) * 128 * 172 for rows in (262040, 50000))
    assert paid["pool"]["flops"] == pytest.approx(full)
    assert paid["same_epochs"]["flops"] == pytest.approx(subset)
    assert paid["pool"]["money"] == pytest.approx(full / (989e12 * 0.3) / 3600 * 2.5)
    assert (paid["unit"], paid["trainings"], paid["trainings_same_epochs"]) == ("money", None, 1)
    assert values["version"] == 1
