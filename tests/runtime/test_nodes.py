"""Several Ray nodes on this machine: work is spread, waits for nodes, and survives their loss."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from s2l_ray import storage
from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.catalog.listing import COMPLETE
from s2l_ray.catalog.verify import verify
from s2l_ray.config.load import load_config
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.plan import plan
from s2l_ray.pipeline.run import run
from s2l_ray.runtime.contracts import ResourceRequest
from s2l_ray.runtime.placement import wait_for_resources
from s2l_ray.runtime.session import connect
from tests.support.jobs import small_job, subset_sha256

CHECKOUT = Path(__file__).parents[2]


def on_several_nodes(scenario: str, argument: str = "") -> dict[str, Any]:
    """The result of a scenario of `several_nodes`."""
    command = [sys.executable, "-m", "tests.support.several_nodes", scenario, argument]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "RAY_ADDRESS": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=560, env=environment, cwd=CHECKOUT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_local_ray_refuses_at_once_what_this_machine_lacks(ray_session: None) -> None:
    lines: list[str] = []
    with connect() as here:
        with pytest.raises(ConfigError, match=r"8 GPUs .*0 GPUs; lower x"):
            wait_for_resources(here, ResourceRequest("train", "lower x", 2, 1.0, 4.0), 15, lines.append)
        wait_for_resources(here, ResourceRequest("train", "lower x", 2, 1.0), 15, lines.append)
    assert lines == []


@pytest.mark.slow
def test_units_are_spread_and_a_function_survives_its_node() -> None:
    found = on_several_nodes("placement")
    assert all(key in found["refused"] for key in ("8 GPUs", "resources.train.workers", "resources.wait_minutes"))
    assert 3 <= found["seconds"] < 15
    assert found["nodes"] == 2
    assert len(set(found["calls"])) == len(found["calls"]) == 2
    assert found["value"] == found["calls"][1]


@pytest.mark.long
def test_a_pool_grows_with_the_cluster_and_releases_it() -> None:
    found = on_several_nodes("grow")
    assert found["cold"] == 0 and found["grows"]
    assert "1 CPU" in found["lines"][0] and "0 CPUs" in found["lines"][0]
    sizes = [size for _, size in found["trace"]]
    assert sizes[0] == 1 and max(sizes) == found["nodes"] == 2 and sizes[-1] == 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """The job file of a complete run on this machine and its disk."""
    resources = {"train": {"threads": 1, "gpus": 0}, "score": {"workers": [1, 4], "gpus": 0}, "wait_minutes": 2}
    job = small_job(tmp_path_factory.mktemp("undisturbed"), rows=500, data={"shard_size": 25}, resources=resources)
    run(load_config(job))
    return job


@pytest.mark.slow
def test_a_node_lost_during_scoring_changes_nothing(s3: str, undisturbed: Path) -> None:
    """Two worker nodes and an object store."""
    found = on_several_nodes("lost", json.dumps({"job": str(undisturbed), "root": s3, "units": 25}))
    log = found.pop("log")
    assert found["status"] == 0, log[-3000:]
    assert found["at_kill"] < found["units"] and found["again"] <= 8, found
    planned = plan(load_config(undisturbed, [f"root={s3}"]))
    assert {step.state for step in planned.steps} == {COMPLETE}
    assert not [verified.faults for step in planned.steps for verified in verify(step.uri) if verified.faults]
    (record,) = open_artifact(planned["subset"].uri).shards()
    assert record.sha256 == subset_sha256(undisturbed.parent / "artifacts")
    losses = [entry for entry in storage.list_files(planned["trajectories"].uri) if entry.path.startswith("losses/")]
    assert len(losses) == found["units"]


@pytest.mark.long
def test_a_job_on_a_cluster_without_nodes(tmp_path: Path, undisturbed: Path) -> None:
    root = tmp_path / "cold"
    found = on_several_nodes("cold", json.dumps({"job": str(undisturbed), "root": str(root)}))
    assert found["status"] == 0, found["log"][-3000:]
    assert "waiting for 1 CPU" in found["log"]
    assert subset_sha256(root) == subset_sha256(undisturbed.parent / "artifacts")
