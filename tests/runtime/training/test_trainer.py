"""Ray Train with a tiny model: several workers, kills, interruption, failures, resumption."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from s2l_ray.errors import LockedError, S2LError
from s2l_ray.runtime.contracts import Progress
from s2l_ray.runtime.training.job import TrainJob, TrainResult, TrainWorkers
from s2l_ray.runtime.training.store import newest_state
from s2l_ray.runtime.training.trainer import run_training
from tests.support import tiny_training
from tests.support.tiny_training import long_job, make_job

pytestmark = pytest.mark.usefixtures("ray_session")


def run(job: TrainJob, workers: TrainWorkers = TrainWorkers()) -> tuple[TrainResult, list[Progress]]:  # noqa: B008
    """Train to the end. Returns the result and all progress."""
    reported: list[Progress] = []
    return run_training(job, workers, reported.append), reported


def run_with_losses(job: TrainJob, workers: TrainWorkers, losses: int) -> list[Progress]:
    """Train to the end and kill the worker `losses` times, each time after a newer state. Returns the warnings."""
    warnings: list[Progress] = []
    at, killed = newest_state(job.output) or 0, 0

    def kill_after_newer_state(progress: Progress) -> None:
        nonlocal at, killed
        if progress.warning:
            warnings.append(progress)
            at = newest_state(job.output) or 0
        elif killed < losses and killed == len(warnings) and (newest_state(job.output) or 0) > at:
            [worker] = [one for one in psutil.Process().children(recursive=True) if "RayTrainWorker" in title(one)]
            worker.kill()
            killed += 1

    run_training(job, workers, kill_after_newer_state)
    assert killed == losses
    return warnings


def title(process: psutil.Process) -> str:
    """The command line of a process; empty once it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def files_of(job: TrainJob) -> dict[str, bytes]:
    """Content of the checkpoints' files by path."""
    root = Path(job.output)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.glob("step-*/*"))}


@pytest.fixture(scope="module")
def long_training(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> TrainJob:
    """A training without interruption or saved states, the reference for the interrupted ones."""
    job = dataclasses.replace(long_job(tmp_path_factory.mktemp("long")), save_minutes=60)
    run(job)
    return job


@pytest.fixture
def interrupted(long_training: TrainJob, tmp_path: Path) -> Iterator[TrainJob]:
    """The same training with frequent states; compared with the reference at the end of the test."""
    job = long_job(tmp_path)
    yield job
    assert files_of(job) == files_of(long_training)
    tables = [pq.read_table(f"{one.output}/training.parquet").drop("seconds") for one in (job, long_training)]
    assert tables[0].equals(tables[1])
    curves = [pq.read_table(f"{one.output}/held_out.parquet") for one in (job, long_training)]
    assert curves[0].equals(curves[1])


def wait_for_state(job: TrainJob, driver: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while newest_state(job.output) is None:
        assert driver.poll() is None and time.monotonic() < deadline, "the driver ended before it saved a state"
        time.sleep(0.05)


def start_driver(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, tiny_training.__file__, str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_one_and_two_workers_train_the_same_model(tmp_path: Path) -> None:
    alone, together = make_job(tmp_path, "alone"), make_job(tmp_path, "together")
    result, reported = run(alone)
    every_30_steps, epoch_ends = {0, 30, 60, 90}, set(range(14, 113, 14))
    steps = [checkpoint.record.step for checkpoint in result.checkpoints]
    assert steps == alone.planned_steps() == sorted(every_30_steps | epoch_ends)
    last = [one for one in reported if not one.usage][-1]
    assert last.done == last.total == 112
    other, _ = run(together, TrainWorkers(workers=2))
    for one, two in zip(result.checkpoints, other.checkpoints, strict=True):
        assert one.record.held_out_loss == pytest.approx(two.record.held_out_loss, abs=1e-4)
        name = f"step-{one.record.step:06d}/model.safetensors"
        ours, theirs = (load_file(f"{job.output}/{name}") for job in (alone, together))
        assert all(torch.allclose(ours[key], theirs[key], atol=1e-4, rtol=0) for key in ours)
    first, last = (result.checkpoints[at].record.held_out_loss for at in (0, -1))
    assert first is not None and last is not None and last < first - 1

    listed = {file.path for file in result.files}
    assert listed == {*files_of(alone), "training.parquet", "held_out.parquet"}
    saved, given = Path(alone.output, "step-000112/tokenizer.json"), Path(alone.dataset, "tokenizer/tokenizer.json")
    assert saved.read_bytes() == given.read_bytes()


@pytest.mark.slow
def test_a_complete_training_is_not_changed(long_training: TrainJob) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(long_training.output).rglob("*")}
    result, reported = run(long_training)
    assert reported == []
    assert [checkpoint.record.step for checkpoint in result.checkpoints] == long_training.planned_steps()
    assert {path: path.stat().st_mtime_ns for path in Path(long_training.output).rglob("*")} == before


@pytest.mark.slow
def test_a_killed_driver_changes_no_byte(interrupted: TrainJob) -> None:
    driver = start_driver(Path(interrupted.output).parent)
    wait_for_state(interrupted, driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    _, reported = run(interrupted)
    assert reported[0].done > 1


@pytest.mark.slow
def test_ctrl_c_saves_a_state_and_ends(interrupted: TrainJob) -> None:
    driver = start_driver(Path(interrupted.output).parent)
    wait_for_state(interrupted, driver)
    before = newest_state(interrupted.output)
    os.killpg(driver.pid, signal.SIGINT)
    assert driver.wait(timeout=60) in (1, 130, -signal.SIGINT)
    saved = newest_state(interrupted.output)
    assert before is not None and saved is not None and saved > before
    _, reported = run(interrupted)
    assert reported[0].done > saved


@pytest.mark.long
def test_a_damaged_state_is_skipped(interrupted: TrainJob) -> None:
    def stop_at_100(progress: Progress) -> None:
        if (newest_state(interrupted.output) or 0) >= 100:
            raise LockedError("stop")

    with pytest.raises(LockedError):
        run_training(interrupted, TrainWorkers(), stop_at_100)
    newest = newest_state(interrupted.output)
    damaged = Path(interrupted.output, f"resume/step-{newest:06d}/state.safetensors")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    Path(interrupted.output, "resume/checkpoint_manager_snapshot.json").write_text("{")
    older = newest_state(interrupted.output)
    assert older is None or (newest is not None and older < newest)
    run(interrupted)


@pytest.mark.slow
def test_lost_workers_are_replaced_while_newer_states_appear(interrupted: TrainJob) -> None:
    with pytest.raises(S2LError, match=r"state saved at step [1-9]\d*"):
        run_with_losses(interrupted, TrainWorkers(retries=0), 1)
    assert len(run_with_losses(interrupted, TrainWorkers(retries=1), 2)) == 2


@pytest.mark.long
def test_a_stalled_training_ends_and_names_its_processes(tmp_path: Path, ray_session: None) -> None:
    job = long_job(tmp_path)
    stopped: list[psutil.Process] = []

    def stop_worker(progress: Progress) -> None:
        if stopped or newest_state(job.output) is None:
            return
        processes = psutil.Process().children(recursive=True)
        stopped.extend(one for one in processes if "RayTrainWorker" in " ".join(one.cmdline()))
        stopped[0].suspend()

    workers = TrainWorkers(stall_minutes=1.0)
    try:
        with pytest.raises(S2LError, match=r"rank 0, [1-9]\d* of \d+ steps") as caught:
            run_training(job, workers, stop_worker)
        assert f"pid {stopped[0].pid} on" in str(caught.value)
    finally:
        for one in stopped:
            one.kill()


@pytest.mark.slow
def test_a_diverged_training_fails_at_once(tmp_path: Path) -> None:
    job = make_job(tmp_path, learning_rate=1e30, warmup_ratio=0.0, precision="bfloat16")
    with pytest.raises(S2LError, match=r"not finite at step \d+.*learning_rate.*float32"):
        run(job, TrainWorkers(workers=2))
