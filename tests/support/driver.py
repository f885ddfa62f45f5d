"""Drivers of `s2l run` as processes of their own: start one, kill it with SIGKILL at a chosen moment, resume."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

POLL_SECONDS = 0.02


def run_command(job: Path, *arguments: str) -> list[str]:
    """The command `s2l run` for a job file."""
    return [sys.executable, "-m", "s2l_ray", "run", str(job), "--no-report", *arguments]


def start_driver(job: Path, to: str = "subset") -> subprocess.Popen[bytes]:
    """Start the job with a local Ray of its own; output is appended to `log` beside the job file."""
    with _log(job).open("ab") as log:
        environment = {**os.environ, "RAY_ADDRESS": ""}
        return subprocess.Popen(run_command(job, "--to", to), stdout=log, stderr=log, env=environment)


def kill_driver_when(job: Path, is_moment: Callable[[], bool], to: str = "subset", seconds: float = 240) -> None:
    """Start the job, kill its driver once `is_moment()` is true, and wait until its workers have ended."""
    driver = start_driver(job, to)
    deadline = time.monotonic() + seconds
    while not is_moment():
        assert driver.poll() is None, f"the driver ended before the kill: {log_tail(job)}"
        assert time.monotonic() < deadline, f"the moment of the kill did not come: {log_tail(job)}"
        time.sleep(POLL_SECONDS)
    children = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    while any(map(_is_worker, children)):  # a worker may still finish its unit
        assert time.monotonic() < deadline + 60
        time.sleep(POLL_SECONDS)


def finish_run(job: Path, to: str = "subset", seconds: float = 240) -> None:
    """Run the job to its end; it must succeed."""
    assert start_driver(job, to).wait(timeout=seconds) == 0, log_tail(job)


def log_tail(job: Path) -> str:
    """The end of the output of the job's drivers."""
    return _log(job).read_text()[-3000:]


def _log(job: Path) -> Path:
    return job.parent / "log"


def _is_worker(process: psutil.Process) -> bool:
    """Whether it is a live worker of Ray. Ray's agents live for another minute and write nothing to the root."""
    try:
        title = (process.cmdline() or [""])[0]
        return title.startswith("ray::") and "Agent" not in title
    except psutil.NoSuchProcess:
        return False
