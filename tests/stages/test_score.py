"""Trajectories: each loss against transformers' own, and the same bits whoever computed them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.artifacts.schemas import losses_path
from s2l_ray.artifacts.tables import FileRecord, find_complete_unit, read_table
from s2l_ray.config.load import load_config
from s2l_ray.pipeline.run import plan, run
from s2l_ray.stages.score_join import JoinWorker
from s2l_ray.stages.score_workers import ScoreWorker
from tests.support.jobs import small_job


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """A job whose trajectories stand."""
    job = small_job(tmp_path_factory.mktemp("scored"), rows=160, data={"shard_size": 50})
    run(load_config(job), to="trajectories")
    return job


def losses_of(job: Path, *overrides: str) -> np.ndarray:
    """losses_NT of all rows, NaN where there is none."""
    table = open_artifact(plan(load_config(job, overrides))["trajectories"].uri).read_table()
    return np.array([row or [np.nan] * table["losses"].type.list_size for row in table["losses"].to_pylist()])


def test_losses_are_those_of_transformers_one_row_at_a_time(scored: Path) -> None:
    planned = plan(load_config(scored))
    checkpoints, dataset = (open_artifact(planned[kind].uri) for kind in ("checkpoints", "dataset"))
    losses_NT = losses_of(scored)
    rows = dataset.read_table().to_pylist()
    steps = checkpoints.manifest.facts["steps"]
    for column, step in [(0, steps[0]), (len(steps) - 1, steps[-1])]:
        model = AutoModelForCausalLM.from_pretrained(f"{checkpoints.uri}/step-{step:06d}").eval()
        for row, loss in zip(rows, losses_NT[:, column], strict=True):
            labels = torch.full((len(row["input_ids"]),), -100)
            for start, end in zip(row["target_spans"][::2], row["target_spans"][1::2], strict=True):
                labels[start:end] = torch.tensor(row["input_ids"][start:end])
            with torch.inference_mode():
                expected = model(input_ids=torch.tensor([row["input_ids"]]), labels=labels[None]).loss
            if row["status"] == "ok":
                assert abs(float(expected) - loss) < 1e-5
            else:
                assert np.isnan(loss)


def test_rows_and_units_that_could_not_be_scored_are_missing_and_said(scored: Path, tmp_path: Path) -> None:
    planned, config = plan(load_config(scored)), load_config(scored)
    before = open_artifact(planned["trajectories"].uri)
    steps, execution = before.manifest.facts["steps"][:2], before.manifest.execution
    uris = [planned[kind].uri for kind in ("dataset", "checkpoints")]
    score_unit = ScoreWorker(str(tmp_path), *uris, config.score.model_dump(), execution)
    units = [{"step": step, "shard": 1, "path": losses_path(step, 1), "facts": {"made": "here"}} for step in steps]
    assert len(score_unit.rows(units[0])) == 50
    score_unit.attempt(units[1], 0, 0)
    whole = score_unit(units[0])["file"]
    part = score_unit(units[1], {3: "too long", 49: "cursed"})["file"]
    assert find_complete_unit(str(tmp_path), units[1]["path"], units[1]["facts"]) == FileRecord(**part)
    join = JoinWorker(str(tmp_path), uris[0], ())

    joined = join({"shard": 1, "units": [whole, part]})
    table = read_table(str(tmp_path), FileRecord(**joined["file"]))
    statuses, losses = table["status"].to_pylist(), table["losses"].to_pylist()
    assert [row for row, status in enumerate(statuses) if status == "not_scored"] == [3, 49]
    assert losses[3][0] is not None and losses[3][1] is None
    scored_NT = np.array([row for row, status in zip(losses, statuses, strict=True) if status == "ok"])
    kept_N = np.array(statuses) == "ok"
    assert np.abs(scored_NT - losses_of(scored)[50:100][kept_N][:, :2]).max() < 1e-6
    name = f"{units[1]['path']} row 3 (example {table['example_id'][3]}): too long"
    assert joined["failed_rows"][0] == name and len(joined["failed_rows"]) == 2
    assert joined["statuses"]["not_scored"] == 2 and sum(joined["ok_by_source"].values()) == kept_N.sum()

    joined = join({"shard": 1, "units": [whole, None]})
    assert joined["statuses"]["not_scored"] == kept_N.sum() + 2 and joined["failed_rows"] == []


@pytest.mark.slow
def test_the_number_of_scoring_workers_changes_no_bit(scored: Path) -> None:
    before = open_artifact(plan(load_config(scored))["trajectories"].uri)
    aside = scored.parent / "one-worker"
    shutil.move(before.uri, aside)
    again = run(load_config(scored, ["resources.score.workers=2"]), to="trajectories")
    assert [vars(record) for record in again.files()] == [vars(record) for record in before.files()]


@pytest.mark.long
def test_two_training_workers_give_the_same_trajectories(scored: Path) -> None:
    two = ["resources.train.workers=2", f"root={scored.parent / 'two'}"]
    run(load_config(scored, two), to="trajectories")
    one_NT, two_NT = losses_of(scored), losses_of(scored, *two)
    assert np.array_equal(np.isnan(one_NT), np.isnan(two_NT))
    assert np.nanmax(np.abs(one_NT - two_NT)) < 1e-4
    assert np.nanmax(np.abs(one_NT[:, 0] - one_NT[:, -1])) > 0.1, "the proxy did not move, so this shows nothing"
