"""Units of scoring that fail in every attempt: the end of the run, skipped units, and their later completion.

A folder at the path of a unit makes every attempt to write its file fail. It is created after the stage has
looked for complete units and removed after the run.
"""

import json
from pathlib import Path

import pytest

from s2l_ray.artifacts.facts import TrajectoriesFacts
from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.artifacts.runs import last_fingerprints
from s2l_ray.catalog.listing import COMPLETE, MISSING, PARTIAL
from s2l_ray.catalog.verify import verify_artifact
from s2l_ray.config.load import load_config
from s2l_ray.config.sections import Config
from s2l_ray.errors import DamagedError, S2LError
from s2l_ray.pipeline.plan import Plan, plan
from s2l_ray.pipeline.run import run
from s2l_ray.runtime.contracts import Progress
from s2l_ray.runtime.failures import UnitsFailed
from tests.support.jobs import copy_job, small_job, subset_sha256

ROWS, SHARD_SIZE = 150, 50
SHARDS, STEPS = 3, [0, 9]
UNITS = {f"losses/step-{step:06d}/shard-{shard:05d}.parquet" for step in STEPS for shard in range(SHARDS)}
FAILING = "losses/step-000000/shard-00001.parquet"
ALLOW_ONE = "resources.score.allow_failures=1"


def write_rows(folder: Path, longest: int = 0) -> None:
    rows = [{"prompt": f"add {n} and 7", "response": str(n + 7), "source": "sums"} for n in range(ROWS)]
    rows[20]["response"] += " and so on" * longest
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_job(folder: Path, longest: int = 0) -> Path:
    """A job with three shards and two checkpoints, whose model has 64 positions."""
    write_rows(folder, longest)
    source = {"path": "rows.jsonl", "source": {"field": "source"}}
    model = {"architecture": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    return small_job(
        folder,
        rows=10,
        data={"root": str(folder), "sources": [source], "max_length": 96, "shard_size": SHARD_SIZE, "held_out": None},
        proxy={"model": model, "epochs": 1, "checkpoints": {"fraction": 1.0}},
        resources={"retries": 1},
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """A job whose dataset and checkpoints are complete."""
    job = write_job(tmp_path_factory.mktemp("trained"))
    run(load_config(job), to="checkpoints")
    return job


@pytest.fixture(scope="module")
def undisturbed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job after a run without failures."""
    job = copy_job(trained, tmp_path_factory.mktemp("undisturbed"), "dataset", "checkpoints")
    run(load_config(job))
    return job


@pytest.fixture
def job(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained job, on which nothing was scored."""
    return copy_job(trained, tmp_path, "dataset", "checkpoints")


def run_with_failing_unit(config: Config, path: str = FAILING) -> Artifact:
    """Run a job while the unit of scoring at `path` cannot be written."""
    obstacle = Path(plan(config)["trajectories"].uri) / path

    def put_obstacle(progress: Progress) -> None:
        if progress.kind == "trajectories" and not obstacle.exists():
            obstacle.mkdir(parents=True)

    try:
        return run(config, report=put_obstacle)
    finally:
        obstacle.rmdir()


def scored_units(planned: Plan) -> dict[str, int]:
    """Modification times of the unit files of scoring, by path."""
    folder = Path(planned["trajectories"].uri)
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.glob("losses/*/*.parquet")}


@pytest.mark.slow
def test_a_unit_that_fails_in_every_attempt_ends_the_run_after_all_others(job: Path) -> None:
    config = load_config(job)
    with pytest.raises(UnitsFailed) as caught:
        run_with_failing_unit(config)
    assert FAILING in str(caught.value)
    assert not [path for path in UNITS - {FAILING} if path in str(caught.value)]
    assert "resources.score.allow_failures" in str(caught.value)
    planned = plan(config)
    assert scored_units(planned).keys() == UNITS - {FAILING}
    assert [planned[kind].state for kind in ("trajectories", "clusters", "subset")] == [PARTIAL, MISSING, MISSING]


@pytest.fixture(scope="module")
def skipping(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A finished run that was allowed to skip one unit, and did."""
    job = copy_job(trained, tmp_path_factory.mktemp("skipping"), "dataset", "checkpoints")
    config = load_config(job, [ALLOW_ONE])
    run_with_failing_unit(config)
    return config


def complete(config: Config, kind: str) -> Artifact:
    return open_artifact(plan(config)[kind].uri)


@pytest.mark.slow
def test_a_skipped_unit_is_recorded_and_its_rows_are_not_scored(skipping: Config) -> None:
    trajectories = complete(skipping, "trajectories")
    facts, counts = trajectories.facts(TrajectoriesFacts), trajectories.manifest.counts
    (skipped,) = facts.skipped
    assert skipped.path == FAILING and "Error" in skipped.error
    assert facts.steps == STEPS and facts.skipped_steps == []
    assert (counts.read, counts.kept, counts.rejected) == (ROWS, ROWS - SHARD_SIZE, {"not_scored": SHARD_SIZE})
    assert sum(facts.ok_by_source.values()) == counts.kept
    assert [verify_artifact(step.uri).faults for step in plan(skipping).steps] == [()] * 5


@pytest.mark.slow
def test_losses_of_other_units_are_those_of_an_undisturbed_run(skipping: Config, undisturbed: Path) -> None:
    tables = list(complete(skipping, "trajectories").read_tables())
    expected = list(complete(load_config(undisturbed), "trajectories").read_tables())
    assert tables[0] == expected[0] and tables[2] == expected[2]
    assert set(tables[1]["status"].to_pylist()) == {"not_scored"}
    without_first = [[None, losses[1]] for losses in expected[1]["losses"].to_pylist()]
    assert tables[1]["losses"].to_pylist() == without_first
    assert tables[1]["example_id"] == expected[1]["example_id"]


@pytest.mark.slow
def test_rows_of_a_skipped_unit_are_not_selected(skipping: Config) -> None:
    shards = complete(skipping, "subset").read_table()["shard"].to_pylist()
    assert shards and 1 not in shards
    clusters = list(complete(skipping, "clusters").read_tables())[1]
    assert clusters["cluster"].null_count == SHARD_SIZE


@pytest.mark.slow
def test_artifacts_built_on_skipped_units_have_names_of_their_own(skipping: Config, undisturbed: Path) -> None:
    """The trajectories keep their name, since a later run may complete them."""
    planned, full = plan(skipping), plan(load_config(undisturbed))
    assert {step.state for step in planned.steps} == {COMPLETE}
    differing = [step.kind for step in planned.steps if step.fingerprint != full[step.kind].fingerprint]
    assert differing == ["clusters", "subset"]
    assert last_fingerprints(skipping.root, skipping.run) == planned.fingerprints


@pytest.mark.long
def test_a_run_that_allows_no_failures_scores_only_the_skipped_units(job: Path, undisturbed: Path) -> None:
    run_with_failing_unit(load_config(job, [ALLOW_ONE]))
    config = load_config(job)
    assert plan(config)["trajectories"].state == PARTIAL
    stored = scored_units(plan(config))
    subset = run(config)
    resumed = scored_units(plan(config))
    assert resumed.keys() == UNITS
    assert {path: resumed[path] for path in stored} == stored, "no other unit is scored again"
    assert open_artifact(plan(config)["trajectories"].uri).facts(TrajectoriesFacts).skipped == ()
    (record,) = subset.shards()
    assert record.sha256 == subset_sha256(undisturbed.parent / "artifacts")
    assert plan(load_config(job, [ALLOW_ONE])).missing == (), "a run that allows more accepts them as well"


@pytest.mark.long
def test_units_skipped_in_a_rebuild_change_complete_later_artifacts(undisturbed: Path, tmp_path: Path) -> None:
    """Clusters and subset of an undisturbed run are complete, but not made from these trajectories."""
    kinds = ("dataset", "checkpoints", "clusters", "subset")
    config = load_config(copy_job(undisturbed, tmp_path, *kinds), [ALLOW_ONE])
    subset = run_with_failing_unit(config)
    assert 1 not in subset.read_table()["shard"].to_pylist()


@pytest.mark.slow
def test_a_row_longer_than_the_positions_of_the_model_is_refused_before_training(
    tmp_path: Path, ray_session: None
) -> None:
    job = write_job(tmp_path, longest=60)
    config = load_config(job)
    with pytest.raises(S2LError, match=r"data\.max_length.* 64\b"):
        run(config)
    begun = Path(plan(config)["checkpoints"].uri)
    assert not list(begun.glob("step-*")) and plan(config)["dataset"].state == COMPLETE


@pytest.mark.slow
def test_damaged_weights_end_the_run_and_are_not_skipped(job: Path) -> None:
    config = load_config(job, ["resources.score.allow_failures=6"])
    weights = next(Path(plan(config)["checkpoints"].uri).glob("step-000000/model.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(DamagedError, match=r"model\.safetensors.*--rebuild checkpoints"):
        run(config, to="trajectories")
