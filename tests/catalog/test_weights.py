"""Weights that a job does not keep: dropped once they are scored, known as dropped ever after, in every store."""

from pathlib import Path

import pytest

from s2l_ray import storage
from s2l_ray.artifacts.dropped_files import DROPPED
from s2l_ray.artifacts.fingerprint import seal
from s2l_ray.artifacts.manifest import Artifact, Manifest, open_artifact, put_bytes, write_manifest
from s2l_ray.artifacts.runs import record_run
from s2l_ray.catalog.gc import LEFT_BEHIND, find_garbage
from s2l_ray.catalog.listing import take_inventory
from s2l_ray.catalog.verify import sizes_agree, verify
from s2l_ray.catalog.weights import drop_weights, gone_weights
from s2l_ray.config.load import load_config
from s2l_ray.config.sections import Config
from s2l_ray.errors import S2LError
from s2l_ray.pipeline.run import COMPLETE, MISSING, plan, run, run_steps
from tests.support.jobs import small_job, subset_sha256

CHECKPOINTS, SCORED, NOT_SCORED = "1" * 12, "2" * 12, "3" * 12
STEPS = [0, 5, 9]


def config_of(folder: Path, root: str, keep: str) -> Config:
    return load_config(small_job(folder, rows=100), [f"root={root}", f"resources.keep_checkpoints={keep}"])


def scored_checkpoints(root: str) -> str:
    """Checkpoints of three steps and their trajectories, named by one run."""
    uri = storage.join(root, "checkpoints", CHECKPOINTS)
    files = [
        put_bytes(uri, f"step-{step:06d}/{name}", bytes(9))
        for step in STEPS
        for name in ("model.safetensors", "a.json")
    ]
    write_manifest(uri, Manifest("checkpoints", 1, CHECKPOINTS, {}, {}, {}, {}, files, facts={"steps": STEPS}))
    scored = storage.join(root, "trajectories", SCORED)
    write_manifest(scored, Manifest("trajectories", 1, SCORED, {}, {}, {}, {}, []))
    record_run(root, "small", {"checkpoints": CHECKPOINTS, "trajectories": SCORED}, {})
    return uri


def weights_of(uri: str) -> list[str]:
    paths = [entry.path for entry in storage.list_files(uri)]
    assert sum(path.endswith("a.json") for path in paths) == len(STEPS)
    return [path for path in paths if path.endswith(".safetensors")]


def assert_whole(root: str, artifact: Artifact) -> None:
    assert sizes_agree(artifact) == [] == list(verify(artifact.uri)) == find_garbage(root)
    assert {found.state for found in take_inventory(root).artifacts} == {"complete"}


def test_weights_are_dropped_and_nothing_takes_that_for_damage(place: str, tmp_path: Path) -> None:
    uri = scored_checkpoints(place)
    assert drop_weights(config_of(tmp_path, place, "all"), open_artifact(uri)) == ""
    assert len(weights_of(uri)) == len(STEPS)
    last = config_of(tmp_path, place, "last")
    said = drop_weights(last, open_artifact(uri))
    assert "2 files" in said
    assert weights_of(uri) == ["step-000009/model.safetensors"]
    assert_whole(place, open_artifact(uri))
    assert drop_weights(last, open_artifact(uri)) == ""

    assert "steps 0, 5)" in gone_weights(last, open_artifact(uri))
    only_last = last.model_copy(update={"score": last.score.model_copy(update={"checkpoints": [9]})})
    assert gone_weights(only_last, open_artifact(uri)) == ""
    drop_weights(config_of(tmp_path, place, "none"), open_artifact(uri))
    assert weights_of(uri) == []
    assert_whole(place, open_artifact(uri))


def test_a_kill_after_the_record_leaves_what_the_next_run_removes(place: str, tmp_path: Path) -> None:
    uri = scored_checkpoints(place)
    path = "step-000000/model.safetensors"
    storage.write_bytes(storage.join(uri, DROPPED), seal({"files": [path]}))
    assert [(fault.path, "dropped" in fault.problem) for fault in verify(uri)] == [(path, True)]
    assert [(one.why, one.paths) for one in find_garbage(place)] == [(LEFT_BEHIND, (path,))]
    said = drop_weights(config_of(tmp_path, place, "all"), open_artifact(uri))
    assert "1 files" in said
    assert len(weights_of(uri)) == len(STEPS) - 1
    assert_whole(place, open_artifact(uri))


@pytest.mark.parametrize("trajectories", [None, NOT_SCORED])
def test_weights_that_another_run_has_still_to_score_stay(tmp_path: Path, trajectories: str | None) -> None:
    root = str(tmp_path / "root")
    uri = scored_checkpoints(root)
    named = {"checkpoints": CHECKPOINTS} | ({"trajectories": trajectories} if trajectories else {})
    record_run(root, "another", named, {})
    said = drop_weights(config_of(tmp_path, root, "none"), open_artifact(uri))
    assert "run another" in said
    assert len(weights_of(uri)) == len(STEPS) and not open_artifact(uri).dropped


@pytest.mark.long
def test_a_job_goes_on_without_the_weights_it_has_scored(tmp_path: Path, ray_session: None) -> None:
    job = small_job(tmp_path, rows=200)
    keep = ["resources.keep_checkpoints=last"]
    run(load_config(job, keep))
    config = load_config(job, keep)
    planned, before = plan(config), subset_sha256(tmp_path / "artifacts")
    assert {step.state for step in planned.steps} == {COMPLETE}
    checkpoints = Path(planned["checkpoints"].uri)
    last = max(open_artifact(str(checkpoints)).manifest.facts["steps"])
    assert [path.parent.name for path in checkpoints.rglob("*.safetensors")] == [f"step-{last:06d}"]
    assert list(run_steps(config)) == []
    run(load_config(job, [*keep, "cluster.k=3"]))

    other = load_config(job, [*keep, "score.statistics=[loss, el2n]"])
    assert "--rebuild checkpoints" in plan(other)["trajectories"].reasons[-1]
    for wanted, rebuild in ((other, None), (config, "trajectories")):
        with pytest.raises(S2LError, match=r"were dropped .*--rebuild checkpoints"):
            list(run_steps(wanted, rebuild=rebuild))
    assert plan(config)["trajectories"].state == COMPLETE and plan(other)["trajectories"].state == MISSING

    for path in (tmp_path / "artifacts" / "subset").iterdir():
        if path.name != planned["subset"].fingerprint:
            storage.delete_folder(str(path))
    for _ in run_steps(load_config(job), rebuild="checkpoints"):
        pass
    assert subset_sha256(tmp_path / "artifacts") == before
    assert not open_artifact(str(checkpoints)).dropped
