"""score: losses compared with those of transformers, rows of skipped units, equal bits for any number of workers."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from s2l_ray.artifacts.execution import ScoreExecution
from s2l_ray.artifacts.facts import CheckpointsFacts
from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.artifacts.tables import FileRecord, find_complete_unit, read_table
from s2l_ray.config.load import load_config
from s2l_ray.pipeline.plan import plan
from s2l_ray.pipeline.run import run
from s2l_ray.stages.score_join import JoinUnit, JoinWorker
from s2l_ray.stages.score_workers import ScoreUnit, ScoreWorker
from tests.support.jobs import small_job

pytestmark = pytest.mark.slow

SHARD_SIZE = 50


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """A job whose trajectories are complete."""
    job = small_job(tmp_path_factory.mktemp("scored"), rows=160, data={"shard_size": SHARD_SIZE})
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
    steps = checkpoints.facts(CheckpointsFacts).steps
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


@pytest.fixture(scope="module")
def units(scored: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[FileRecord]]:
    """A folder with two units of shard 1, scored in this process: the first two checkpoints."""
    config = load_config(scored)
    planned = plan(config)
    folder = str(tmp_path_factory.mktemp("units"))
    inputs, execution = (planned["dataset"].uri, planned["checkpoints"].uri), ScoreExecution(4096, "auto", 1, 0)
    worker = ScoreWorker(folder, "packed", *inputs, config.score, execution)
    steps = open_artifact(planned["checkpoints"].uri).facts(CheckpointsFacts).steps[:2]
    return folder, [worker(ScoreUnit(step, 1, {"made": "here"})).file for step in steps]


def shard_of(job: Path, kind: str, shard: int) -> list[dict[str, object]]:
    return list(open_artifact(plan(load_config(job))[kind].uri).read_tables())[shard].to_pylist()


def test_a_unit_is_found_by_the_key_it_was_made_from(units: tuple[str, list[FileRecord]]) -> None:
    folder, (first, second) = units
    assert first.rows == second.rows == SHARD_SIZE
    assert find_complete_unit(folder, first.path, {"made": "here"}) == first
    assert find_complete_unit(folder, first.path, {"made": "elsewhere"}) is None


def test_units_joined_are_the_trajectories_of_the_shard(scored: Path, units: tuple[str, list[FileRecord]]) -> None:
    """Computed with other batches, so equal but for rounding."""
    folder, files = units
    joined = JoinWorker(folder, plan(load_config(scored))["dataset"].uri, ())(JoinUnit(1, [*files]))
    table = read_table(folder, joined.file).to_pylist()
    expected = shard_of(scored, "trajectories", 1)
    assert [row["status"] for row in table] == [row["status"] for row in expected]
    for row, other in zip(table, expected, strict=True):
        assert (row["losses"] is None) == (other["losses"] is None)
        if row["losses"] is not None:
            assert row["losses"] == pytest.approx(other["losses"][:2], abs=1e-5)
    assert joined.statuses == Counter(row["status"] for row in expected)
    assert joined.ok_by_source == Counter(row["source"] for row in expected if row["status"] == "ok")


@pytest.mark.parametrize("skipped", [0, 1])
def test_a_skipped_unit_leaves_its_column_empty(
    scored: Path, units: tuple[str, list[FileRecord]], skipped: int
) -> None:
    folder, files = units
    present = 1 - skipped
    records = [None if column == skipped else file for column, file in enumerate(files)]
    joined = JoinWorker(folder, plan(load_config(scored))["dataset"].uri, ())(JoinUnit(1, records))
    table = read_table(folder, joined.file).to_pylist()
    dataset = shard_of(scored, "dataset", 1)
    assert [row["example_id"] for row in table] == [row["example_id"] for row in dataset]
    expected = ["not_scored" if row["status"] == "ok" else "no_target_tokens" for row in dataset]
    assert [row["status"] for row in table] == expected
    for row in table:
        if row["status"] == "not_scored":
            assert row["losses"][skipped] is None and row["losses"][present] > 0
    assert joined.statuses == Counter(expected) and joined.ok_by_source == {}


def test_a_shard_without_any_unit_still_counts_target_tokens(scored: Path, units: tuple[str, list[FileRecord]]) -> None:
    joined = JoinWorker(units[0], plan(load_config(scored))["dataset"].uri, ())(JoinUnit(1, [None, None]))
    tokens = [row["target_tokens"] for row in read_table(units[0], joined.file).to_pylist()]
    assert tokens == [row["target_tokens"] for row in shard_of(scored, "trajectories", 1)]


def test_the_number_of_scoring_workers_changes_no_bit(scored: Path) -> None:
    before = open_artifact(plan(load_config(scored))["trajectories"].uri)
    again = run(load_config(scored, ["resources.score.workers=2"]), to="trajectories", rebuild="trajectories")
    assert again.files() == before.files()


@pytest.mark.long
def test_two_training_workers_give_the_same_trajectories(scored: Path) -> None:
    two = ["resources.train.workers=2", f"root={scored.parent / 'two'}"]
    run(load_config(scored, two), to="trajectories")
    one_NT, two_NT = losses_of(scored), losses_of(scored, *two)
    assert np.array_equal(np.isnan(one_NT), np.isnan(two_NT))
    assert np.nanmax(np.abs(one_NT - two_NT)) < 1e-4
    assert np.nanmax(np.abs(one_NT[:, 0] - one_NT[:, -1])) > 0.1, "the proxy has to learn"
