"""The lock on an artifact, with real processes, on a disk and in object stores."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from s2l_ray import storage
from s2l_ray.artifacts import lock as lock_module
from s2l_ray.artifacts.lock import Holder, Lock, is_live, raise_if_locked
from s2l_ray.errors import LockedError, StorageError
from tests.support.gcs import UNCONDITIONAL

BEAT, STALE = 0.1, 1.0

Driver = subprocess.Popen[str]
Start = Callable[..., Driver]


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats of tenths of a second."""
    monkeypatch.setattr(lock_module, "BEAT_SECONDS", BEAT)
    monkeypatch.setattr(lock_module, "STALE_SECONDS", STALE)
    monkeypatch.setattr(lock_module, "POLL_SECONDS", BEAT / 2)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts drivers, which are killed at the end."""
    drivers: list[Driver] = []

    def start_driver(mode: str, folder: str, beat: float = BEAT, stale: float = STALE) -> Driver:
        command = [sys.executable, "-m", "tests.support.lock_driver", folder, str(beat), str(stale), mode]
        drivers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return drivers[-1]

    try:
        yield start_driver
    finally:
        for driver in drivers:
            driver.kill()
            driver.communicate()


def line_of(driver: Driver) -> str:
    assert driver.stdout is not None
    return driver.stdout.readline().strip()


def send_line(driver: Driver) -> None:
    assert driver.stdin is not None
    driver.stdin.write("\n")
    driver.stdin.flush()


def test_a_live_driver_refuses_the_second_and_is_named(place: str, start: Start) -> None:
    first = start("hold", place)
    assert line_of(first) == "held"
    for refused in (Lock(place, "second").acquire, lambda: raise_if_locked(place)):
        with pytest.raises(LockedError, match=f"{re.escape(place)}/building.*first.*{first.pid}"):
            refused()


@pytest.mark.skipif(not psutil.LINUX, reason="elsewhere the start of a process does not move with the clock")
def test_a_live_driver_refuses_after_the_clock_was_set(
    place: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start("hold", place)
    assert line_of(first) == "held"
    booted = psutil.boot_time()
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: booted + 3600)
    with pytest.raises(LockedError):
        Lock(place, "second").acquire()


def test_the_lock_of_a_killed_driver_is_taken_over_at_once(
    place: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start("hold", place)
    assert line_of(first) == "held"
    first.kill()
    first.wait()
    monkeypatch.setattr(lock_module, "STALE_SECONDS", 600.0)
    raise_if_locked(place)
    second = Lock(place, "second")
    second.acquire()
    second.release()
    assert storage.list_files(place) == []


def test_a_driver_that_was_paused_for_too_long_loses_its_lock(place: str, start: Start) -> None:
    first = start("hold", place)
    assert line_of(first) == "held"
    first.send_signal(signal.SIGSTOP)
    second = Lock(place, "second")
    second.acquire()
    first.send_signal(signal.SIGCONT)
    assert line_of(first) == "lost"
    assert first.wait(timeout=20) == 0
    second.check()
    second.release()


def test_a_loser_detects_it_and_leaves_the_lock_of_the_winner(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "BEAT_SECONDS", 3 * STALE)
    first, second = Lock(place, "first"), Lock(place, "second")
    first.acquire()
    second.acquire()  # the first has not written a heartbeat for too long
    with pytest.raises(LockedError):
        first.check()
    first.release()
    assert storage.exists(f"{place}/building")
    second.check()
    second.release()
    assert not storage.exists(f"{place}/building")


def test_a_driver_resumes_after_a_pause_without_a_second_driver(place: str, start: Start) -> None:
    first = start("hold", place)
    assert line_of(first) == "held"
    first.send_signal(signal.SIGSTOP)
    time.sleep(2 * STALE)
    first.send_signal(signal.SIGCONT)
    deadline = time.monotonic() + 20
    while not is_live(holder_of(place)):
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.05)


def holder_of(place: str) -> Holder:
    return Holder(**json.loads(storage.read_bytes(f"{place}/building")))


def write_heartbeat(place: str, clock_ahead: float) -> None:
    """Write what a driver on another host would write, whose clock is ahead by so many seconds."""
    now = time.time() + clock_ahead
    holder = Holder("remote", "another-host", "another", 1, 0.0, "token", now, now)
    storage.write_bytes(f"{place}/building", json.dumps(asdict(holder)).encode())


CLOCKS = pytest.mark.parametrize("clock_ahead", [0.0, -3600.0, 3600.0], ids=["correct", "slow", "fast"])


@CLOCKS
def test_an_unchanged_lock_of_another_host_is_taken_over(place: str, clock_ahead: float) -> None:
    write_heartbeat(place, clock_ahead)
    begun = time.monotonic()
    lock = Lock(place, "here")
    lock.acquire()
    assert time.monotonic() - begun >= STALE
    lock.check()
    lock.release()


@CLOCKS
def test_a_changing_lock_of_another_host_refuses(place: str, clock_ahead: float) -> None:
    with heartbeats(place, clock_ahead), pytest.raises(LockedError, match="another-host"):
        Lock(place, "here").acquire()


@contextmanager
def heartbeats(place: str, clock_ahead: float) -> Iterator[None]:
    """A live driver on another host."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT):
            write_heartbeat(place, clock_ahead)

    write_heartbeat(place, clock_ahead)
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_lock_that_is_released_while_it_is_watched_is_taken(place: str) -> None:
    write_heartbeat(place, 0.0)
    release = threading.Timer(STALE / 2, storage.delete_file, [f"{place}/building"])
    release.start()
    lock = Lock(place, "here")
    lock.acquire()
    release.join()
    lock.check()
    lock.release()


def test_a_recent_heartbeat_counts_only_if_its_process_exists(place: str) -> None:
    lock = Lock(place, "here")
    lock.acquire()
    holder = holder_of(place)
    lock.release()
    assert is_live(holder)
    assert not is_live(replace(holder, process_started=holder.process_started - 60))
    assert not is_live(replace(holder, beat=holder.beat - 2 * STALE))
    assert is_live(replace(holder, machine="another", process_started=0.0))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": "x"}'])
def test_content_that_no_driver_wrote_is_no_lock(place: str, content: bytes) -> None:
    storage.write_bytes(f"{place}/building", content)
    lock = Lock(place, "here")
    lock.acquire()
    assert holder_of(place).job == "here"
    lock.release()


def test_a_store_that_ignores_conditions_cannot_lock(gcs: str) -> None:
    with pytest.raises(StorageError, match=f"gs://{UNCONDITIONAL}/a"):
        Lock(f"gs://{UNCONDITIONAL}/a", "first").acquire()
    assert storage.list_files(f"gs://{UNCONDITIONAL}") == []


def test_one_of_some_concurrent_drivers_wins(tmp_path: Path, start: Start) -> None:
    check_that_one_wins(str(tmp_path), start, racers=4)


@pytest.mark.slow
@pytest.mark.parametrize("dead_driver", [False, True])
def test_one_of_many_concurrent_drivers_wins(place: str, start: Start, dead_driver: bool) -> None:
    if dead_driver:
        dead = start("hold", place)
        assert line_of(dead) == "held"
        dead.kill()
        dead.wait()
    check_that_one_wins(place, start, racers=20)


def check_that_one_wins(place: str, start: Start, racers: int) -> None:
    drivers = [start("race", place, 0.5, 30.0) for _ in range(racers)]
    assert {line_of(driver) for driver in drivers} == {"ready"}
    for driver in drivers:
        send_line(driver)
    results = [line_of(driver) for driver in drivers]
    assert sorted(results) == ["refused"] * (racers - 1) + ["won"]
    assert holder_of(place).pid == drivers[results.index("won")].pid
