"""Whole runs with artifacts in an object store, also one with faults: the same subset as on a disk, no secrets."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from s2l_ray import storage
from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.catalog.gc import find_garbage
from s2l_ray.catalog.listing import COMPLETE
from s2l_ray.catalog.verify import verify
from s2l_ray.config.load import load_config
from s2l_ray.pipeline.plan import plan
from s2l_ray.pipeline.run import run
from tests.support.fault_proxy import Faults, fault_proxy
from tests.support.jobs import small_job
from tests.support.s3 import SECRET, S3Server, use_endpoint


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files whose path is short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="s2l-") as folder:
        yield Path(folder)


def run_in_process(job: Path, root: str, temporary: Path) -> str:
    """The output of `s2l run`, in a process whose Ray workers inherit the environment."""
    environment = {**os.environ, "RAY_ADDRESS": "", "TMPDIR": str(temporary)}
    command = [sys.executable, "-m", "s2l_ray", "run", str(job), "--no-text", "--set", f"root={root}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def shards_of_subset(job: Path, root: str) -> list[str]:
    """sha256 of the files of a job's subset below a root."""
    return [record.sha256 for record in open_artifact(plan(load_config(job, [f"root={root}"]))["subset"].uri).shards()]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """A job whose artifacts are complete on this machine's disk."""
    job = small_job(tmp_path_factory.mktemp("job"), rows=200)
    run(load_config(job))
    return job


def shards_on_disk(job: Path) -> list[str]:
    return shards_of_subset(job, str(job.parent / "artifacts"))


@pytest.mark.slow
def test_a_run_in_an_object_store(s3: str, job: Path, temporary: Path) -> None:
    output = run_in_process(job, s3, temporary)
    config = load_config(job, [f"root={s3}"])
    assert {step.state for step in plan(config).steps} == {COMPLETE}
    assert [fault for verified in verify(s3) for fault in verified.faults] == []
    assert find_garbage(s3) == []
    files = storage.list_files(s3)
    run(config)
    assert storage.list_files(s3) == files, "a second run writes nothing"
    assert shards_of_subset(job, s3) == shards_on_disk(job)

    logs = [path.read_bytes() for path in temporary.rglob("*") if path.is_file()]
    stored = [storage.read_bytes(storage.join(s3, entry.path)) for entry in files]
    assert logs and stored
    assert not [text for text in (*logs, *stored, output.encode()) if SECRET.encode() in text]


@pytest.mark.long
def test_a_run_in_an_object_store_with_faults(
    s3: str, running_s3: S3Server, monkeypatch: pytest.MonkeyPatch, job: Path, temporary: Path
) -> None:
    with fault_proxy(running_s3.endpoint, Faults(0.05, seed=1, stall_seconds=1)) as proxy:
        use_endpoint(proxy.endpoint, monkeypatch)
        run_in_process(job, s3, temporary)
        assert sum(number for kind, number in proxy.counts.items() if kind) >= 5, proxy.counts
    use_endpoint(running_s3.endpoint, monkeypatch)
    assert shards_of_subset(job, s3) == shards_on_disk(job)
    assert find_garbage(s3) == []
