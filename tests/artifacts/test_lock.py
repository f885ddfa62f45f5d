"""One driver at a time, by real processes."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from s2l_ray.artifacts.errors import LockedError
from s2l_ray.artifacts.lock import STALE_SECONDS, Lock

HOLD = """
import sys, time
from s2l_ray.artifacts.lock import Lock
Lock(sys.argv[1], "first").acquire()
print("held", flush=True)
time.sleep(60)
"""
RACE = """
import sys
from s2l_ray.artifacts.errors import LockedError
from s2l_ray.artifacts.lock import Lock
print("ready", flush=True)
sys.stdin.readline()
try:
    Lock(sys.argv[1], "racer").acquire()
    print("won", flush=True)
    sys.stdin.readline()
except LockedError:
    print("refused", flush=True)
"""


def start(code: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = start(HOLD, tmp_path)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_living_driver_refuses_the_second_by_name(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(LockedError, match=f"job first .pid {holder.pid} .*--take-over"):
        Lock(str(tmp_path), "second").acquire()


def test_a_killed_driver_is_taken_over_at_once(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    begun = time.monotonic()
    lock = Lock(str(tmp_path), "second")
    lock.acquire()
    assert time.monotonic() - begun < 1
    lock.release()
    assert not (tmp_path / "building").exists()


def test_take_over_takes_from_the_living_and_leaves_it_the_loser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s2l_ray.artifacts.lock.BEAT_SECONDS", 0.05)
    first, second = Lock(str(tmp_path), "first"), Lock(str(tmp_path), "second")
    first.acquire()
    second.acquire(take_over=True)
    deadline = time.monotonic() + 10
    with pytest.raises(LockedError, match="taken this artefact over"):
        while time.monotonic() < deadline:
            first.check()
            time.sleep(0.02)
    first.release()
    assert (tmp_path / "building").exists(), "the loser's release leaves the winner's lock"
    second.check()
    second.release()


def test_a_stale_heartbeat_of_another_host_is_taken_over_and_a_fresh_one_not(tmp_path: Path) -> None:
    other = {"job": "far", "host": "another-host", "pid": 1, "process_started": 0.0, "token": "t", "since": time.time()}
    (tmp_path / "building").write_text(json.dumps({**other, "beat": time.time()}))
    with pytest.raises(LockedError, match="another-host"):
        Lock(str(tmp_path), "here").acquire()
    (tmp_path / "building").write_text(json.dumps({**other, "beat": time.time() - STALE_SECONDS - 1}))
    lock = Lock(str(tmp_path), "here")
    lock.acquire()
    lock.release()


def test_of_many_that_start_at_once_one_wins(tmp_path: Path) -> None:
    racers = [start(RACE, tmp_path) for _ in range(8)]
    for racer in racers:
        assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    answers = [racer.stdout.readline().strip() for racer in racers if racer.stdout]
    for racer in racers:
        racer.kill()
        racer.wait()
    assert sorted(answers) == ["refused"] * 7 + ["won"]
