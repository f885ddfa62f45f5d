"""Ray Train with a real, tiny model: laid out over workers, killed, closed, failed, and run again."""

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

from s2l_ray.errors import S2LError
from s2l_ray.runtime.training.job import TrainJob, TrainProgress
from s2l_ray.runtime.training.store import newest_state
from s2l_ray.runtime.training.trainer import TrainResult, TrainWorkers, discard_states, planned_steps, train_proxy
from tests.support import tiny_training
from tests.support.tiny_training import long_job, make_job

pytestmark = pytest.mark.usefixtures("ray_session")


def run(job: TrainJob, workers: TrainWorkers = TrainWorkers()) -> tuple[TrainResult, list[TrainProgress]]:  # noqa: B008
    """The whole training, and what it said."""
    training = train_proxy(job, workers)
    said: list[TrainProgress] = []
    while True:
        try:
            said.append(next(training))
        except StopIteration as end:
            return end.value, said


def run_with_losses(job: TrainJob, workers: TrainWorkers, losses: int) -> list[TrainProgress]:
    """The training to its end; its worker is killed so many times, each time once there is a newer state."""
    said: list[TrainProgress] = []
    at, killed = newest_state(job.output) or 0, False
    for progress in train_proxy(job, workers):
        said.append(progress)
        if "workers were lost" in progress.note:
            at, killed = newest_state(job.output) or 0, False
        if losses and not killed and (newest_state(job.output) or 0) > at:
            [worker] = [one for one in psutil.Process().children(recursive=True) if "RayTrainWorker" in title(one)]
            worker.kill()
            losses, killed = losses - 1, True
    assert losses == 0
    return said


def title(process: psutil.Process) -> str:
    """What a process calls itself; nothing once it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def files_of(job: TrainJob) -> dict[str, bytes]:
    """The checkpoints, byte for byte."""
    root = Path(job.output)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.glob("step-*/*"))}


@pytest.fixture(scope="module")
def long_training(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> TrainJob:
    """One that nobody disturbed, not even by saving its state; the disturbed ones are held against it."""
    job = dataclasses.replace(long_job(tmp_path_factory.mktemp("long")), save_minutes=60)
    run(job)
    return job


@pytest.fixture
def disturbed(long_training: TrainJob, tmp_path: Path) -> Iterator[TrainJob]:
    """The same training elsewhere, saving its state all the time; held against the undisturbed one at the end."""
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
    result, said = run(alone)
    assert [checkpoint["step"] for checkpoint in result.checkpoints] == planned_steps(alone) == [0, 13, 26, 30, 39, 52, 60, 65, 78, 90, 91, 104]  # fmt: skip  # noqa: E501
    assert said[-1].step == said[-1].total_steps == 104
    other, _ = run(together, TrainWorkers(workers=2))
    for one, two in zip(result.checkpoints, other.checkpoints, strict=True):
        assert one["held_out_loss"] == pytest.approx(two["held_out_loss"], abs=1e-4)
        name = f"step-{one['step']:06d}/model.safetensors"
        ours, theirs = (load_file(f"{job.output}/{name}") for job in (alone, together))
        assert all(torch.allclose(ours[key], theirs[key], atol=1e-4, rtol=0) for key in ours)
    assert result.checkpoints[-1]["held_out_loss"] < result.checkpoints[0]["held_out_loss"] - 1

    listed = {file.path for file in result.files}
    assert listed == {*files_of(alone), "training.parquet", "held_out.parquet"}
    assert Path(alone.output, "step-000104/tokenizer.json").read_bytes() == b'{"made": "up"}'


@pytest.mark.slow
def test_a_finished_training_is_not_touched_again(long_training: TrainJob) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(long_training.output).rglob("*")}
    result, said = run(long_training)
    assert said == []
    assert [checkpoint["step"] for checkpoint in result.checkpoints] == planned_steps(long_training)
    assert {path: path.stat().st_mtime_ns for path in Path(long_training.output).rglob("*")} == before


@pytest.mark.slow
def test_a_killed_driver_changes_no_byte(disturbed: TrainJob) -> None:
    driver = start_driver(Path(disturbed.output).parent)
    wait_for_state(disturbed, driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    _, said = run(disturbed)
    assert said[0].step > 1


@pytest.mark.slow
def test_control_c_saves_and_ends_cleanly(disturbed: TrainJob) -> None:
    driver = start_driver(Path(disturbed.output).parent)
    wait_for_state(disturbed, driver)
    before = newest_state(disturbed.output)
    os.killpg(driver.pid, signal.SIGINT)
    assert driver.wait(timeout=60) in (1, 130, -signal.SIGINT)
    saved = newest_state(disturbed.output)
    assert before is not None and saved is not None and saved > before
    _, said = run(disturbed)
    assert said[0].step > saved


@pytest.mark.long
def test_a_damaged_state_is_passed_over(disturbed: TrainJob) -> None:
    training = train_proxy(disturbed, TrainWorkers())
    while (newest_state(disturbed.output) or 0) < 100:
        next(training)
    training.close()
    newest = newest_state(disturbed.output)
    damaged = Path(disturbed.output, f"resume/step-{newest:06d}/state.safetensors")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    Path(disturbed.output, "resume/checkpoint_manager_snapshot.json").write_text("{")
    older = newest_state(disturbed.output)
    assert older is None or (newest is not None and older < newest)
    run(disturbed)
    discard_states(disturbed.output)
    assert not Path(disturbed.output, "resume").exists()


@pytest.mark.slow
def test_lost_workers_are_replaced_as_long_as_it_gets_on(disturbed: TrainJob) -> None:
    with pytest.raises(S2LError, match=r"lost 1 times since step [1-9]\d* was saved, last: .*run again"):
        run_with_losses(disturbed, TrainWorkers(retries=0), 1)
    said = run_with_losses(disturbed, TrainWorkers(retries=1), 2)
    assert len([progress.note for progress in said if "workers were lost" in progress.note]) == 2


@pytest.mark.slow
def test_a_training_that_stands_still_ends_and_says_where(tmp_path: Path, ray_session: None) -> None:
    job = long_job(tmp_path)
    stopped: list[psutil.Process] = []

    def stop_worker() -> None:
        processes = psutil.Process().children(recursive=True)
        stopped.extend(one for one in processes if "RayTrainWorker" in " ".join(one.cmdline()))
        stopped[0].suspend()

    workers = TrainWorkers(stall_minutes=0.5)
    try:
        with pytest.raises(S2LError, match=r"no step for 0.5 minutes; the last was step [1-9]\d*\.") as caught:
            for _ in train_proxy(job, workers):
                if not stopped and newest_state(job.output) is not None:
                    stop_worker()
        assert f"rank 0: pid {stopped[0].pid} on" in str(caught.value)
    finally:
        for one in stopped:
            one.kill()


@pytest.mark.slow
def test_a_training_that_diverges_says_so_at_once(tmp_path: Path) -> None:
    job = make_job(tmp_path, learning_rate=1e30, warmup_ratio=0.0, precision="bfloat16")
    with pytest.raises(S2LError, match=r"not finite at step \d+.*learning_rate.*float32"):
        run(job, TrainWorkers(workers=2))
