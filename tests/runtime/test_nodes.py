"""Several Ray nodes on this machine: work spreads over them, waits for them, and outlives them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from s2l_ray import storage
from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.catalog.verify import verify
from s2l_ray.config.load import load_config
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.run import COMPLETE, plan, run
from s2l_ray.runtime.placement import Need, wait_for_room
from s2l_ray.runtime.session import connect
from tests.support.jobs import small_job, subset_sha256

CHECKOUT = Path(__file__).parents[2]


def on_several_nodes(case: str, argument: str = "") -> dict[str, Any]:
    """What a case of `several_nodes` found."""
    command = [sys.executable, "-m", "tests.support.several_nodes", case, argument]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "RAY_ADDRESS": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=560, env=environment, cwd=CHECKOUT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_this_machine_refuses_at_once_what_it_does_not_have(ray_session: None) -> None:
    with (
        connect() as here,
        pytest.raises(ConfigError, match=r"8 GPUs \(2 workers of 4 GPUs\), but .* has 0 GPUs; lower x"),
    ):
        list(wait_for_room(here, Need("train", "lower x", 2, 1.0, 4.0), 15))
    with connect() as here:
        assert list(wait_for_room(here, Need("train", "lower x", 2, 1.0), 15)) == []


@pytest.mark.slow
def test_work_spreads_and_a_function_outlives_its_node() -> None:
    found = on_several_nodes("rooms")
    assert "8 GPUs (8 workers of 1 GPU), but the cluster has 0 GPUs; lower resources.train.workers" in found["refused"]
    assert "resources.wait_minutes" in found["refused"] and 3 <= found["seconds"] < 15
    assert found["nodes"] == 2
    assert len(set(found["calls"])) == len(found["calls"]) == 2
    assert found["value"] == found["calls"][1]


@pytest.mark.long
def test_the_pool_grows_with_the_cluster_and_leaves_it_empty() -> None:
    found = on_several_nodes("grow")
    assert found["cold"] == 0 and found["grows"]
    assert found["notes"][0].startswith("waiting for 1 CPU, but the cluster has 0 CPUs")
    sizes = [size for _, size in found["trace"]]
    assert sizes[0] == 1 and max(sizes) == found["nodes"] == 2 and sizes[-1] == 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """The job file of a job that ran through on this machine and its disk."""
    resources = {"train": {"threads": 1, "gpus": 0}, "score": {"workers": [1, 4], "gpus": 0}, "wait_minutes": 2}
    job = small_job(tmp_path_factory.mktemp("undisturbed"), rows=500, data={"shard_size": 25}, resources=resources)
    run(load_config(job))
    return job


@pytest.mark.slow
def test_a_node_lost_during_scoring_changes_nothing(s3: str, undisturbed: Path) -> None:
    """Three nodes and an object store."""
    found = on_several_nodes("lost", json.dumps({"job": str(undisturbed), "root": s3, "units": 25}))
    log = found.pop("log")
    assert found["status"] == 0, log[-3000:]
    assert found["at_kill"] < found["units"] and found["again"] <= 8, found
    print(found)
    planned = plan(load_config(undisturbed, [f"root={s3}"]))
    assert {step.state for step in planned.steps} == {COMPLETE}
    assert [list(verify(step.uri)) for step in planned.steps] == [[]] * len(planned.steps)
    (record,) = open_artifact(planned["subset"].uri).shards()
    assert record.sha256 == subset_sha256(undisturbed.parent / "artifacts")
    losses = [entry for entry in storage.list_files(planned["trajectories"].uri) if entry.path.startswith("losses/")]
    assert len(losses) == open_artifact(planned["trajectories"].uri).manifest.counts["units"] == found["units"]


@pytest.mark.long
def test_a_cluster_that_starts_from_nothing(tmp_path: Path, undisturbed: Path) -> None:
    root = tmp_path / "cold"
    found = on_several_nodes("cold", json.dumps({"job": str(undisturbed), "root": str(root)}))
    assert found["status"] == 0, found["log"][-3000:]
    assert "waiting for 1 CPU, but the cluster has 0 CPUs; 0 min of 2" in found["log"]
    assert subset_sha256(root) == subset_sha256(undisturbed.parent / "artifacts")
