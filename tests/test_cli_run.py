"""`s2l run` as a process of its own: what it prints, where the noise goes, how it ends when it is told to stop."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from s2l_ray.cli import app
from s2l_ray.config.load import load_config
from s2l_ray.pipeline.run import plan
from tests.support.jobs import small_job

REPOSITORY = Path(__file__).parents[1]
RANDOM = ("--set", "select.method=random")
"""A subset that needs no proxy: the shortest whole way."""


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "s2l_ray", *map(str, arguments)]


def s2l(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, cwd=REPOSITORY, timeout=300)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_job(tmp_path_factory.mktemp("job"), rows=200)


@pytest.fixture(scope="module")
def ended(job: Path) -> subprocess.CompletedProcess[str]:
    return s2l("run", job, *RANDOM)


def test_a_run_says_where_the_subset_is_and_what_it_took(job: Path, ended: subprocess.CompletedProcess[str]) -> None:
    assert ended.returncode == 0, ended.stderr
    planned = plan(load_config(job, RANDOM[1:]))
    assert planned["subset"].uri in ended.stdout
    truth = [json.loads(line) for line in (job.parent / "demo" / "truth.jsonl").open()]
    words = ended.stdout.split()
    for source in {row["source"] for row in truth if not row["reason"]}:
        assert source in words
    duplicates = sum(row["reason"] == "duplicate" for row in truth)
    assert f"duplicate {duplicates}" in ended.stdout
    assert "s2l_ray export" in ended.stdout


def test_progress_is_whole_lines_and_no_noise(ended: subprocess.CompletedProcess[str]) -> None:
    spoken = ended.stderr.splitlines()
    assert all(line[2] == line[5] == ":" and line[9] in "·✓!" for line in spoken)
    assert any("✓ dataset" in line for line in spoken)
    assert "\x1b" not in ended.stderr + ended.stdout


def test_a_second_run_finds_everything_and_starts_no_ray(job: Path, ended: subprocess.CompletedProcess[str]) -> None:
    again = s2l("run", job, *RANDOM)
    assert again.returncode == 0
    assert again.stdout.count("found ready") == 2
    assert "starting" not in again.stderr


def test_the_subset_of_a_job_is_exported(job: Path, ended: subprocess.CompletedProcess[str], tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    done = CliRunner().invoke(app, ["export", str(job), "--to", str(target), *RANDOM])
    assert done.exit_code == 0, done.stderr
    known = json.loads(CliRunner().invoke(app, ["plan", str(job), "--json", *RANDOM]).stdout)
    assert len(target.read_text().splitlines()) == known["budget"] == int(0.2 * known["rows"])


@pytest.mark.slow
def test_a_run_refuses_damage_and_rebuilds_on_request(job: Path, ended: subprocess.CompletedProcess[str]) -> None:
    shard = Path(plan(load_config(job, RANDOM[1:]))["subset"].uri) / "shard-00000.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    refused = s2l("run", job, *RANDOM)
    assert refused.returncode == 1
    assert "--rebuild subset" in refused.stderr
    assert "Traceback" not in refused.stderr
    rebuilt = s2l("run", job, *RANDOM, "--rebuild", "subset")
    assert rebuilt.returncode == 0
    assert shard.read_bytes() == whole
    assert rebuilt.stdout.count("found ready") == 1


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGINT, marks=pytest.mark.long), pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
)
def test_a_run_that_is_told_to_stop_ends_cleanly_and_goes_on(job: Path, tmp_path: Path, number: int) -> None:
    words = command("run", job, "--to", "checkpoints", "--set", f"root={tmp_path}", "--set", "proxy.epochs=20")
    mark = {"S2L_TEST_MARK": str(tmp_path)}
    driver = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, env=os.environ | mark)
    assert driver.stderr is not None
    spoken = ""
    for line in driver.stderr:
        spoken += line
        if "steps" in line:
            driver.send_signal(number)
            break
    last_words = driver.stderr.read()
    assert driver.wait(timeout=120) == 130, spoken + last_words
    assert "interrupted in checkpoints" in last_words and "Traceback" not in last_words
    assert last_words.strip().splitlines()[-1].strip().startswith(f"python -m s2l_ray run {job} --to checkpoints")
    assert not list(tmp_path.glob("*/*/building")), "the lock was given back"
    assert eventually(lambda: not processes_marked(str(tmp_path))), "Ray was shut down"
    done = subprocess.run(words, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert "found ready" in done.stdout


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
