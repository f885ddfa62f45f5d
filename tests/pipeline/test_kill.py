"""SIGKILL of the driver in each stage that takes time; resumed, the subset has the bytes of an undisturbed run."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from s2l_ray.catalog.verify import verify_artifact
from s2l_ray.config.load import load_config
from tests.support.driver import finish_run, kill_driver_when, run_command, start_driver
from tests.support.jobs import copy_job, small_job, subset_sha256
from tests.support.sentence_model import save_sentence_model
from tests.support.target_artifact import write_target

# a file of each complete unit, by kind
UNITS = {
    "embeddings": "embeddings/*/shard-*.parquet",
    "checkpoints": "checkpoints/*/step-*/checkpoint.json",
    "trajectories": "trajectories/*/losses/*/*.parquet",
    "clusters": "clusters/*/centroids.parquet",
    "evaluation": "evaluation/*/*/answers/*/*.parquet",
}


def units(job: Path, kind: str) -> dict[Path, int]:
    """Modification times of the complete units of a kind."""
    return {path: path.stat().st_mtime_ns for path in (job.parent / "artifacts").glob(UNITS[kind])}


def assert_same_subset(job: Path, undisturbed: Path) -> None:
    assert subset_sha256(job.parent / "artifacts") == subset_sha256(undisturbed.parent / "artifacts")


@pytest.fixture(scope="module")
def undisturbed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished job with one subset."""
    job = copy_job(finished, tmp_path_factory.mktemp("undisturbed"), "dataset", "checkpoints", "trajectories")
    finish_run(job)
    return job


@pytest.mark.long
def test_killed_in_embedding(finished: Path, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="the extra embed is not installed")
    model = save_sentence_model(tmp_path / "sentences", ["How many are there in all ? The answer is"])
    embedded = {"cluster": {"features": "embeddings", "k": 4}, "embed": {"model": str(model), "max_length": 32}}
    jobs = [copy_job(finished, tmp_path / name, "dataset") for name in ("undisturbed", "killed")]
    for job in jobs:
        job.write_text(yaml.safe_dump(yaml.safe_load(job.read_text()) | embedded))
    finish_run(jobs[0])
    kill_driver_when(jobs[1], lambda: bool(units(jobs[1], "embeddings")))
    stored = units(jobs[1], "embeddings")
    assert not list((jobs[1].parent / "artifacts").glob("embeddings/*/manifest.json"))
    finish_run(jobs[1])
    assert stored.items() <= units(jobs[1], "embeddings").items(), "a complete unit is not written again"
    contents = [{path.name: path.read_bytes() for path in units(job, "embeddings")} for job in jobs]
    assert contents[0] == contents[1] and len(contents[0]) > len(stored)
    assert_same_subset(jobs[1], jobs[0])


@pytest.mark.slow
def test_killed_in_training(undisturbed: Path, tmp_path: Path) -> None:
    job = copy_job(undisturbed, tmp_path / "train", "dataset")
    kill_driver_when(job, lambda: len(units(job, "checkpoints")) >= 2)
    stored = units(job, "checkpoints")
    assert not list((job.parent / "artifacts").glob("checkpoints/*/manifest.json"))
    assert not units(job, "trajectories")
    finish_run(job)
    first = min(stored)
    assert units(job, "checkpoints")[first] == stored[first], "a complete checkpoint is not written again"
    assert_same_subset(job, undisturbed)


@pytest.mark.slow
def test_killed_in_scoring_with_a_unit_damaged_afterwards(undisturbed: Path, tmp_path: Path) -> None:
    job = copy_job(undisturbed, tmp_path / "score", "dataset", "checkpoints")
    kill_driver_when(job, lambda: len(units(job, "trajectories")) >= 3)
    stored = units(job, "trajectories")
    damaged = min(stored)
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 4
    damaged.write_bytes(data)
    folder = damaged.parents[2]
    assert [fault.path for fault in verify_artifact(str(folder)).faults] == [str(damaged.relative_to(folder))]
    finish_run(job)
    resumed = units(job, "trajectories")
    assert len(resumed) > len(stored)
    assert [path for path in stored if resumed[path] != stored[path]] == [damaged], "only this one is scored again"
    assert verify_artifact(str(folder)).faults == ()
    assert_same_subset(job, undisturbed)


@pytest.mark.slow
def test_killed_in_clustering(undisturbed: Path, tmp_path: Path) -> None:
    job = copy_job(undisturbed, tmp_path / "cluster", "dataset", "checkpoints", "trajectories")
    kill_driver_when(job, lambda: bool(units(job, "clusters")))
    fitted = units(job, "clusters")
    assert not list((job.parent / "artifacts").glob("clusters/*/manifest.json"))
    finish_run(job)
    assert units(job, "clusters") == fitted, "the stored fit is reused"
    assert_same_subset(job, undisturbed)


def evaluation_job(folder: Path) -> Path:
    """A job with 20 questions and a target of random weights that is complete. Returns the job file."""
    target = {"model": {"architecture": "gpt_neox"}, "rows": "pool"}
    tasks = [{"name": "sums", "path": "sums.jsonl"}]
    job = small_job(
        folder,
        target=target,
        evaluate={"tasks": tasks, "max_new_tokens": 40},
        resources={"evaluate": {"workers": 1, "prompts_per_unit": 2, "prompts_per_batch": 2}},
    )
    rows = [{"question": f"{number} + {number}?", "answer": 2 * number} for number in range(20)]
    (folder / "demo" / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write_target(load_config(job), max_position_embeddings=256)
    return job


@pytest.mark.long
def test_killed_in_generation(tmp_path: Path) -> None:
    jobs = [evaluation_job(tmp_path / name) for name in ("undisturbed", "killed")]
    finish_run(jobs[0], "evaluation")
    kill_driver_when(jobs[1], lambda: len(units(jobs[1], "evaluation")) >= 2, "evaluation")
    assert 2 <= len(units(jobs[1], "evaluation")) < 10
    assert not list((jobs[1].parent / "artifacts").glob("evaluation/*/manifest.json"))
    finish_run(jobs[1], "evaluation")
    first, second = (
        {
            path.relative_to(job.parent): path.read_bytes()
            for path in job.parent.glob("artifacts/evaluation/*/**/*.parquet")
        }
        for job in jobs
    )
    assert first == second and len(first) == 2, "one table of losses, one of answers"


@pytest.mark.long
def test_a_second_driver_is_refused_while_the_first_is_alive(tmp_path: Path) -> None:
    job = small_job(tmp_path / "two")
    first = start_driver(job)
    deadline = time.monotonic() + 120
    while not list((job.parent / "artifacts").glob("dataset/*/building")):
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGSTOP)  # alive, and unable to finish before the second has read the lock
    try:
        second = subprocess.run(run_command(job), capture_output=True, text=True, timeout=120)
        assert second.returncode == 1
        assert str(first.pid) in second.stderr
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    resumed = subprocess.run(run_command(job, "--to", "dataset"), capture_output=True, timeout=120)
    assert resumed.returncode == 0
