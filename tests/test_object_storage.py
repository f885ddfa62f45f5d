"""The whole way with its artefacts in an object store: the same subset as on a disk, and no secret told."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from s2l_ray.artifacts import storage
from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.artifacts.verify import verify
from s2l_ray.inventory import take_inventory
from s2l_ray.job_reading import load_config
from s2l_ray.pipeline import COMPLETE, plan
from tests.jobs import small_job
from tests.s3 import SECRET, S3Server


def s2l(*arguments: str, temporary: Path) -> str:
    """What a command says, on standard output and standard error."""
    environment = {**os.environ, "RAY_ADDRESS": "", "TMPDIR": str(temporary)}
    command = [sys.executable, "-m", "s2l_ray", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files whose path is short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="s2l-") as folder:
        yield Path(folder)


@pytest.mark.slow
def test_the_whole_way_in_an_object_store(s3: str, running_s3: S3Server, tmp_path: Path, temporary: Path) -> None:
    job = small_job(tmp_path / "job", rows=200)
    said = s2l("run", str(job), "--set", f"root={s3}", temporary=temporary)
    config = load_config(job, [f"root={s3}"])
    planned = plan(config)
    assert {step.state for step in planned.steps} == {COMPLETE}
    for step in planned.steps:
        assert list(verify(step.uri)) == []
    files = storage.list_files(s3)
    again = s2l("run", str(job), "--set", f"root={s3}", temporary=temporary)
    assert storage.list_files(s3) == files, "a second run writes nothing"
    assert {found.state for found in take_inventory(s3).artifacts} == {"complete"}

    said += s2l("run", str(job), temporary=temporary)
    on_disk = plan(load_config(job))["subset"].uri
    shas = [[record.sha256 for record in open_artifact(uri).shards()] for uri in (on_disk, planned["subset"].uri)]
    assert shas[0] == shas[1]

    everything = [storage.read_bytes(storage.join(s3, entry.path)) for entry in files]
    logs = [path.read_bytes() for path in temporary.rglob("*") if path.is_file()]
    assert logs
    for text in (*everything, *logs, said.encode(), again.encode()):
        assert SECRET.encode() not in text
