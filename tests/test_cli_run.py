"""`s2l run` as a process of its own: its output streams, its results, and its end after a signal."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from s2l_ray.cli import app
from s2l_ray.config.load import load_config
from s2l_ray.pipeline.plan import plan
from tests.support.jobs import small_job

REPOSITORY = Path(__file__).parents[1]
# the shortest run that ends in a subset: without a proxy model
RANDOM = ("--set", "select.method=random")


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "s2l_ray", *map(str, arguments)]


def s2l(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | environment
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=REPOSITORY, timeout=300, env=variables
    )


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_job(tmp_path_factory.mktemp("job"), rows=200)


@pytest.fixture(scope="module")
def ended(job: Path) -> subprocess.CompletedProcess[str]:
    return s2l("run", job, *RANDOM)


def test_a_run_prints_its_result(job: Path, ended: subprocess.CompletedProcess[str]) -> None:
    assert ended.returncode == 0, ended.stderr
    planned = plan(load_config(job, RANDOM[1:]))
    assert planned["subset"].uri in ended.stdout
    truth = [json.loads(line) for line in (job.parent / "demo" / "truth.jsonl").open()]
    printed = ended.stdout.split()
    for source in {row["source"] for row in truth if not row["reason"]}:
        assert source in printed
    duplicates = sum(row["reason"] == "duplicate" for row in truth)
    assert printed[printed.index("duplicate") + 1] == str(duplicates)
    assert printed[printed.index("export") + 1] == planned["subset"].uri
    written = Path(printed[printed.index("report") + 1])
    assert written.stat().st_size < 8_000_000
    assert (
        pq.read_metadata(written.with_name("explorer.parquet")).num_rows
        == planned["subset"].artifact.manifest.counts.read
    )


def test_progress_is_whole_lines_without_output_of_ray(ended: subprocess.CompletedProcess[str]) -> None:
    lines = ended.stderr.splitlines()
    assert lines and all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)
    assert any("dataset" in line for line in lines)
    assert "\x1b" not in ended.stderr + ended.stdout


def test_a_second_run_builds_nothing_and_starts_no_ray(job: Path, ended: subprocess.CompletedProcess[str]) -> None:
    planned = plan(load_config(job, RANDOM[1:]))
    before = stored_files(job)
    again = s2l("run", job, *RANDOM, RAY_ADDRESS="127.0.0.1:1")  # where no Ray is
    assert again.returncode == 0, again.stderr
    assert stored_files(job) == before, "not even the run is recorded"
    assert all(step.uri in again.stderr for step in planned.steps)
    assert planned["subset"].uri in again.stdout


def stored_files(job: Path) -> dict[str, int]:
    """Files of the job's root with their times of modification, without the logs."""
    root = job.parent / "artifacts"
    files = [path for path in root.rglob("*") if path.is_file() and "logs" not in path.parts]
    return {str(path): path.stat().st_mtime_ns for path in files}


def test_the_subset_of_a_job_is_exported(job: Path, ended: subprocess.CompletedProcess[str], tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    done = CliRunner().invoke(app, ["export", str(job), "--to", str(target), *RANDOM])
    assert done.exit_code == 0, done.stderr
    known = json.loads(CliRunner().invoke(app, ["plan", str(job), "--json", *RANDOM]).stdout)
    assert len(target.read_text().splitlines()) == known["budget"] == int(0.2 * known["rows"])


@pytest.mark.slow
def test_a_run_refuses_damage_and_rebuilds_on_request(job: Path, ended: subprocess.CompletedProcess[str]) -> None:
    planned = plan(load_config(job, RANDOM[1:]))
    shard = Path(planned["subset"].uri) / "shard-00000.parquet"
    dataset = Path(planned["dataset"].uri) / "manifest.json"
    intact, built = shard.read_bytes(), dataset.stat().st_mtime_ns
    shard.write_bytes(intact[:-1])
    refused = s2l("run", job, *RANDOM)
    assert refused.returncode == 1
    assert "--rebuild subset" in refused.stderr
    assert "Traceback" not in refused.stderr
    rebuilt = s2l("run", job, *RANDOM, "--rebuild", "subset")
    assert rebuilt.returncode == 0
    assert shard.read_bytes() == intact
    assert dataset.stat().st_mtime_ns == built


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGINT, marks=pytest.mark.long), pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
)
def test_an_interrupted_run_ends_in_order_and_resumes(job: Path, tmp_path: Path, number: int) -> None:
    arguments = command("run", job, "--to", "checkpoints", "--set", f"root={tmp_path}", "--set", "proxy.epochs=20")
    mark = {"S2L_TEST_MARK": str(tmp_path)}
    driver = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, env=os.environ | mark)
    assert driver.stderr is not None
    before = ""
    for line in driver.stderr:
        before += line
        if "steps" in line:
            driver.send_signal(number)
            break
    after = driver.stderr.read()
    assert driver.wait(timeout=120) == 130, before + after
    assert "interrupted in checkpoints" in after and "Traceback" not in after
    resume = after.strip().splitlines()[-1].strip()
    assert resume.startswith(f"python -m s2l_ray run {job} --to checkpoints")
    assert not list(tmp_path.glob("*/*/building")), "the lock is released"
    assert eventually(lambda: not processes_marked(str(tmp_path))), "Ray is shut down"
    (dataset,) = tmp_path.glob("dataset/*/manifest.json")
    built = dataset.stat().st_mtime_ns
    done = subprocess.run([sys.executable, *shlex.split(resume)[1:]], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert dataset.stat().st_mtime_ns == built
    assert len(list(tmp_path.glob("checkpoints/*/manifest.json"))) == 1


def processes_marked(mark: str) -> list[str]:
    """Processes that inherited the mark of a test."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"S2L_TEST_MARK={mark}" in environ.read_text(errors="replace"):
                found.append(environ.parent.name)
        except OSError:
            continue
    return found


def eventually(condition: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.2)
    return False
