"""One driver at a time, by real processes, on a disk and in an object store."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from s2l_ray import storage
from s2l_ray.artifacts import lock as lock_module
from s2l_ray.artifacts.lock import STALE_SECONDS, Lock, is_alive, read_holder
from s2l_ray.errors import LockedError

QUICK_BEAT, QUICK_STALE = 0.1, 0.5
SETTINGS = """
import sys, time
from s2l_ray.artifacts import lock
from s2l_ray.errors import LockedError
lock.BEAT_SECONDS, lock.STALE_SECONDS = float(sys.argv[2]), float(sys.argv[3])
mine = lock.Lock(sys.argv[1], "first")
"""
HOLD = (
    SETTINGS
    + """
mine.acquire()
print("held", flush=True)
try:
    while True:
        mine.check()
        time.sleep(0.05)
except LockedError as error:
    print(error, flush=True)
"""
)
RACE = (
    SETTINGS
    + """
print("ready", flush=True)
sys.stdin.readline()
try:
    mine.acquire()
    print("won", flush=True)
    sys.stdin.readline()
except LockedError:
    print("refused", flush=True)
"""
)

Driver = subprocess.Popen[str]
Start = Callable[..., Driver]


@contextmanager
def drivers() -> Iterator[Start]:
    """Starts processes, and kills them in the end."""
    started: list[Driver] = []

    def start(code: str, place: str, beat: float = 5.0, stale: float = 30.0) -> Driver:
        command = [sys.executable, "-c", code, place, str(beat), str(stale)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.fixture
def start() -> Iterator[Start]:
    with drivers() as starts:
        yield starts


def says(process: Driver) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats of tenths of a second."""
    monkeypatch.setattr(lock_module, "BEAT_SECONDS", QUICK_BEAT)
    monkeypatch.setattr(lock_module, "STALE_SECONDS", QUICK_STALE)


def test_a_living_driver_refuses_the_second_by_name(place: str, start: Start) -> None:
    first = start(HOLD, place)
    assert says(first) == "held"
    with pytest.raises(LockedError, match=f"job first .pid {first.pid} .*--take-over"):
        Lock(place, "second").acquire()


def test_a_killed_driver_is_taken_over_at_once(place: str, start: Start) -> None:
    first = start(HOLD, place)
    assert says(first) == "held"
    first.kill()
    first.wait()
    begun = time.monotonic()
    second = Lock(place, "second")
    second.acquire()
    assert time.monotonic() - begun < 5
    second.release()
    assert storage.list_files(place) == []


def test_take_over_takes_from_the_living_and_leaves_it_the_loser(place: str, quick: None) -> None:
    first, second = Lock(place, "first"), Lock(place, "second")
    first.acquire()
    second.acquire(take_over=True)
    deadline = time.monotonic() + 20
    with pytest.raises(LockedError, match="taken this artefact over"):
        while time.monotonic() < deadline:
            first.check()
            time.sleep(0.02)
    first.release()
    assert storage.exists(f"{place}/building"), "the loser's release leaves the winner's lock"
    second.check()
    second.release()
    assert not storage.exists(f"{place}/building")


def test_a_paused_driver_that_was_taken_over_stops(place: str, start: Start, quick: None) -> None:
    first = start(HOLD, place, QUICK_BEAT, QUICK_STALE)
    assert says(first) == "held"
    first.send_signal(signal.SIGSTOP)
    time.sleep(2 * QUICK_STALE)
    second = Lock(place, "second")
    second.acquire()
    first.send_signal(signal.SIGCONT)
    assert "another driver has taken this artefact over" in says(first)
    assert first.wait(timeout=20) == 0
    second.check()
    second.release()


def test_a_driver_goes_on_after_a_pause_in_which_nobody_came(place: str, start: Start) -> None:
    first = start(HOLD, place, QUICK_BEAT, QUICK_STALE)
    assert says(first) == "held"
    first.send_signal(signal.SIGSTOP)
    time.sleep(2 * QUICK_STALE)
    first.send_signal(signal.SIGCONT)
    deadline = time.monotonic() + 20
    while not is_alive(read_holder(f"{place}/building") or {}):
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.05)


def far_away(age: float) -> dict[str, object]:
    """What a driver on another machine wrote `age` seconds ago."""
    now = time.time()
    who = {"job": "far", "host": "another-host", "machine": "another", "pid": 1, "process_started": 0.0}
    return {**who, "token": "t", "since": now - age, "beat": now - age}


def test_a_stale_heartbeat_of_another_host_is_taken_over_and_a_fresh_one_not(place: str, quick: None) -> None:
    storage.write_bytes(f"{place}/building", json.dumps(far_away(age=0)).encode())
    with pytest.raises(LockedError, match="another-host"):
        Lock(place, "here").acquire()
    storage.write_bytes(f"{place}/building", json.dumps(far_away(age=STALE_SECONDS + 1)).encode())
    lock = Lock(place, "here")
    lock.acquire()
    lock.release()


def test_a_host_whose_clock_is_slow_is_no_dead_one(place: str, quick: None) -> None:
    """Its heartbeats look old and yet go on."""
    with beating(place), pytest.raises(LockedError, match="another-host"):
        Lock(place, "here").acquire()


@contextmanager
def beating(place: str) -> Iterator[None]:
    """A driver far away that is alive, and an hour behind."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(QUICK_BEAT / 2):
            storage.write_bytes(f"{place}/building", json.dumps(far_away(age=3600)).encode())

    storage.write_bytes(f"{place}/building", json.dumps(far_away(age=3600)).encode())
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": "x"}'])
def test_what_no_driver_wrote_holds_nothing(place: str, content: bytes) -> None:
    storage.write_bytes(f"{place}/building", content)
    lock = Lock(place, "here")
    lock.acquire()
    assert read_holder(f"{place}/building") is not None
    lock.release()


def test_of_some_that_start_at_once_one_wins(tmp_path: Path, start: Start) -> None:
    one_of_many_wins(str(tmp_path), start, racers=4)


@pytest.mark.slow
@pytest.mark.parametrize("before", ["nothing", "a dead driver's"])
def test_of_many_that_start_at_once_one_wins(place: str, start: Start, before: str) -> None:
    if before != "nothing":
        dead = start(HOLD, place)
        assert says(dead) == "held"
        dead.kill()
        dead.wait()
    one_of_many_wins(place, start, racers=20)


def one_of_many_wins(place: str, start: Start, racers: int) -> None:
    processes = [start(RACE, place) for _ in range(racers)]
    assert {says(process) for process in processes} == {"ready"}
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [says(process) for process in processes]
    assert sorted(answers) == ["refused"] * (racers - 1) + ["won"]
    holder = read_holder(f"{place}/building")
    assert holder is not None and holder["pid"] == processes[answers.index("won")].pid
