"""`gc --weights`: weights go once they are scored and no run needs them, in every kind of store."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from s2l_ray import storage
from s2l_ray.artifacts.facts import CheckpointsFacts, TrajectoriesFacts
from s2l_ray.artifacts.lock import Lock
from s2l_ray.artifacts.manifest import drop, open_artifact, read_dropped
from s2l_ray.artifacts.runs import record_run
from s2l_ray.catalog.gc import LEFT_OVER, find_garbage, remove_garbage
from s2l_ray.catalog.listing import COMPLETE, MISSING, list_root
from s2l_ray.catalog.verify import verify_artifact
from s2l_ray.catalog.weights import delete_weights, find_scored_weights, missing_weights
from s2l_ray.cli import app
from s2l_ray.config.load import load_config
from s2l_ray.config.sections import Config, Score
from s2l_ray.errors import S2LError
from s2l_ray.pipeline.plan import plan
from s2l_ray.pipeline.run import run
from tests.support.jobs import small_job, subset_sha256
from tests.support.sample_artifacts import STEPS, begin, complete, fingerprint

CHECKPOINTS, SCORED, UNSCORED = fingerprint(1), fingerprint(2), fingerprint(3)
WEIGHT_BYTES = 9


def weights_path(step: int) -> str:
    return f"step-{step:06d}/model.safetensors"


WEIGHTS = [weights_path(step) for step in STEPS]


def stored_checkpoints(root: str, name: str = CHECKPOINTS) -> str:
    """Complete checkpoints of `STEPS`, each weights and a config; their URI."""
    contents = {path: bytes(WEIGHT_BYTES) for path in WEIGHTS}
    contents |= {f"step-{step:06d}/config.json": b"{}" for step in STEPS}
    return complete(root, "checkpoints", name, contents).uri


def scored_checkpoints(root: str) -> str:
    """Complete checkpoints with complete trajectories, both named by one run; their URI."""
    uri = stored_checkpoints(root)
    complete_trajectories(root, SCORED, CHECKPOINTS)
    record_run(root, "small", {"checkpoints": CHECKPOINTS, "trajectories": SCORED}, {})
    return uri


def complete_trajectories(root: str, name: str, checkpoints: str, without: int | None = None) -> None:
    """Complete trajectories of every step, or of all but one, without skipped units."""
    steps = [step for step in STEPS if step != without]
    facts = TrajectoriesFacts(steps, ["loss"], {"sums": 28}, {"packed": 11}, numerics={"cpu": "exact"})
    complete(root, "trajectories", name, inputs={"checkpoints": checkpoints}, facts=facts)


def stored_weights(uri: str) -> list[str]:
    paths = [entry.path for entry in storage.list_files(uri)]
    assert sum(path.endswith("config.json") for path in paths) == len(STEPS), "only weights may go"
    return [path for path in paths if path.endswith(".safetensors")]


def assert_intact(root: str, uri: str) -> None:
    assert verify_artifact(uri).faults == ()
    assert find_garbage(root) == []
    assert {info.state for info in list_root(root).artifacts} == {COMPLETE}


def test_scored_weights_are_deleted_and_the_artifact_stays_complete(place: str) -> None:
    uri = scored_checkpoints(place)
    (found,) = find_scored_weights(place)
    assert (found.uri, found.kept_for, found.bytes) == (uri, "", len(STEPS) * WEIGHT_BYTES)
    assert sorted(found.paths) == WEIGHTS == stored_weights(uri)
    assert delete_weights(place) == [found]
    assert stored_weights(uri) == []
    assert open_artifact(uri).dropped == frozenset(WEIGHTS)
    assert_intact(place, uri)
    assert find_scored_weights(place) == []


def test_unscored_weights_are_kept(place: str) -> None:
    uri = stored_checkpoints(place)
    record_run(place, "train", {"checkpoints": CHECKPOINTS}, {})
    begin(place, "trajectories", UNSCORED)
    (found,) = find_scored_weights(place)
    assert found.kept_for
    assert delete_weights(place) == []
    assert stored_weights(uri) == WEIGHTS and not open_artifact(uri).dropped


def test_weights_with_a_skipped_unit_are_kept(tmp_path: Path) -> None:
    """A skipped unit is scored by a later run that allows no failures."""
    root = str(tmp_path)
    stored_checkpoints(root)
    complete(root, "trajectories", SCORED, inputs={"checkpoints": CHECKPOINTS})
    assert [bool(one.kept_for) for one in find_scored_weights(root)] == [True]
    complete_trajectories(root, UNSCORED, CHECKPOINTS)
    assert [one.kept_for for one in find_scored_weights(root)] == [""]


def test_weights_of_a_step_without_losses_are_kept(tmp_path: Path) -> None:
    root = str(tmp_path)
    stored_checkpoints(root)
    complete_trajectories(root, SCORED, CHECKPOINTS, without=STEPS[-1])
    assert [bool(one.kept_for) for one in find_scored_weights(root)] == [True]


def test_weights_that_another_run_has_not_scored_yet_are_kept(place: str) -> None:
    uri = scored_checkpoints(place)
    record_run(place, "another", {"checkpoints": CHECKPOINTS, "trajectories": UNSCORED}, {})
    assert ["another" in one.kept_for for one in find_scored_weights(place)] == [True]
    assert delete_weights(place) == [], "listed before the other run began"
    assert stored_weights(uri) == WEIGHTS and not open_artifact(uri).dropped


def test_weights_are_kept_while_they_are_scored_again(place: str) -> None:
    """Trajectories that a run reopens, to score units that it had skipped, are locked before anything else."""
    uri = scored_checkpoints(place)
    lock = Lock(f"{place}/trajectories/{SCORED}", "small")
    lock.acquire()
    try:
        assert [bool(one.kept_for) for one in find_scored_weights(place)] == [True]
    finally:
        lock.release()
    assert [one.kept_for for one in find_scored_weights(place)] == [""]
    assert stored_weights(uri) == WEIGHTS


def test_only_the_newest_entry_of_a_run_needs_weights(tmp_path: Path) -> None:
    root = str(tmp_path)
    stored_checkpoints(root)
    record_run(root, "small", {"checkpoints": CHECKPOINTS, "trajectories": UNSCORED}, {})
    complete_trajectories(root, SCORED, CHECKPOINTS)
    assert [bool(one.kept_for) for one in find_scored_weights(root)] == [True]
    record_run(root, "small", {"checkpoints": CHECKPOINTS, "trajectories": SCORED}, {})
    assert [bool(one.kept_for) for one in find_scored_weights(root)] == [False]


def test_a_deletion_is_recorded_before_any_file_goes(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, delete_file = scored_checkpoints(place), storage.delete_file

    def fail_at_the_second(target: str) -> None:
        assert read_dropped(uri) == frozenset(WEIGHTS)
        if target.endswith(WEIGHTS[1]):
            raise OSError("killed")
        delete_file(target)

    with monkeypatch.context() as patched:
        patched.setattr(storage, "delete_file", fail_at_the_second)
        with pytest.raises(OSError, match="killed"):
            delete_weights(place)
    assert stored_weights(uri) == WEIGHTS[1:]
    assert {info.state for info in list_root(place).artifacts} == {COMPLETE}
    assert sorted(fault.path for fault in verify_artifact(uri).faults) == WEIGHTS[1:]
    (garbage,) = find_garbage(place)
    assert garbage.why == LEFT_OVER and sorted(garbage.paths) == WEIGHTS[1:]
    assert list(remove_garbage(place, [garbage])) == [garbage]
    assert stored_weights(uri) == []
    assert_intact(place, uri)


def test_only_weights_that_scoring_reads_are_missed(tmp_path: Path) -> None:
    uri = scored_checkpoints(str(tmp_path))
    assert missing_weights(Score(), open_artifact(uri)) == ""
    drop(uri, [weights_path(5)])
    assert missing_weights(Score(checkpoints=[0, 9]), open_artifact(uri)) == ""
    assert missing_weights(Score(checkpoints=[0, 5]), open_artifact(uri)) != ""
    assert missing_weights(Score(), open_artifact(uri)) != ""


def job_without_its_weights(tmp_path: Path) -> Config:
    """A job whose dataset and checkpoints are complete, scored, and without weights."""
    config = load_config(small_job(tmp_path, rows=60))
    planned = plan(config, "trajectories")
    complete(config.root, "dataset", planned["dataset"].fingerprint)
    stored_checkpoints(config.root, planned["checkpoints"].fingerprint)
    complete_trajectories(config.root, planned["trajectories"].fingerprint, planned["checkpoints"].fingerprint)
    record_run(config.root, config.run, planned.fingerprints, {})
    assert delete_weights(config.root)
    return config


def test_scoring_without_weights_is_blocked_and_refused(tmp_path: Path) -> None:
    config = job_without_its_weights(tmp_path)
    assert plan(config, "trajectories").missing == ()
    other = load_config(tmp_path / "job.yaml", ["score.statistics=[loss, el2n]"])
    planned = plan(other)
    assert planned["trajectories"].state == MISSING and planned["trajectories"].blocked
    assert not any(planned[kind].blocked for kind in ("dataset", "checkpoints", "clusters", "subset"))
    histories = storage.list_files(f"{config.root}/runs")
    for wanted, rebuild in ((other, None), (config, "trajectories")):
        with pytest.raises(S2LError, match=r"--rebuild checkpoints"):
            run(wanted, rebuild=rebuild)
    assert storage.list_files(f"{config.root}/runs") == histories, "refused before the run is recorded"
    assert not plan(other, rebuild="checkpoints")["trajectories"].blocked


def test_the_command_deletes_weights_only_with_yes(tmp_path: Path) -> None:
    uri = scored_checkpoints(str(tmp_path))

    def gc(*options: str) -> str:
        return CliRunner().invoke(app, ["gc", str(tmp_path), "--weights", *options], catch_exceptions=False).stdout

    assert f"checkpoints/{CHECKPOINTS}" in gc()
    (found,) = json.loads(gc("--json"))["found"]
    assert sorted(found["paths"]) == WEIGHTS == stored_weights(uri)
    assert json.loads(gc("--yes", "--json"))["deleted"] == [uri]
    assert stored_weights(uri) == []
    assert json.loads(gc("--json"))["found"] == []


@pytest.mark.long
def test_a_job_without_weights_still_clusters_and_selects(tmp_path: Path, ray_session: None) -> None:
    job = small_job(tmp_path, rows=200)
    config = load_config(job)
    run(config)
    planned, before = plan(config), subset_sha256(tmp_path / "artifacts")
    (found,) = find_scored_weights(config.root)
    checkpoints = open_artifact(found.uri)
    assert len(found.paths) == len(checkpoints.facts(CheckpointsFacts).steps)
    assert delete_weights(config.root) == [found]
    assert plan(config).missing == ()
    run(load_config(job, ["cluster.k=3"]))
    with pytest.raises(S2LError, match=r"--rebuild checkpoints"):
        run(load_config(job, ["score.statistics=[loss, el2n]"]))

    for name in storage.list_folders(f"{config.root}/subset"):
        if name != planned["subset"].fingerprint:
            storage.delete_folder(f"{config.root}/subset/{name}")
    run(config, rebuild="checkpoints")
    assert subset_sha256(tmp_path / "artifacts") == before
    assert not open_artifact(checkpoints.uri).dropped
