"""The lock that admits one driver at a time to an artifact: the file `building` in its folder.

The holder rewrites the file at every heartbeat, so that its version changes. A lock is stale if its process on this
machine has ended, or if its version has not changed for `STALE_SECONDS` of the observer's monotonic clock; clocks of
other hosts are not compared. Every write is conditional on the version that was read: of several drivers one gets the
lock, and one that was suspended detects that it has lost it. Units are idempotent, so the lock saves duplicate work;
correctness does not depend on it.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from s2l_ray import storage
from s2l_ray.errors import LockedError, StorageError

BEAT_SECONDS = 5.0
STALE_SECONDS = 30.0
POLL_SECONDS = 0.5
RELEASE_SECONDS = 10.0
LOCK = "building"


@dataclass(frozen=True)
class Holder:
    """Content of a lock file.

    machine: boot and container within which a pid is unique. process_started: see `_start_of`. since, beat: seconds
    since the epoch.
    """

    job: str
    host: str
    machine: str
    pid: int
    process_started: float
    token: str
    since: float
    beat: float


class Lock:
    """The lock on one artifact, kept by a heartbeat thread between `acquire` and `release`."""

    def __init__(self, folder: str, job: str) -> None:
        self.uri = storage.join(folder, LOCK)
        now, started = time.time(), _start_of(os.getpid())
        token = uuid.uuid4().hex
        self._holder = Holder(job, socket.gethostname(), _machine(), os.getpid(), started, token, now, now)
        self._version: str | None = None
        self._last_beat = 0.0
        self._renewing = threading.Lock()
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, name="building-heartbeat", daemon=True)

    def acquire(self) -> None:
        """Take the lock. Raises `LockedError` if another driver holds it, `StorageError` if the store cannot lock.

        Blocks for up to `STALE_SECONDS` to observe whether the heartbeat of the holder continues.
        """
        storage.check_conditional_writes(self.uri.rpartition("/")[0])
        while self._version is None:
            holder, version = _read(self.uri)
            if holder is not None and not _has_ended(holder):
                self._raise_if_beating(version)
            self._version = storage.write_if(self.uri, self._content(), version)
        self._last_beat = time.time()
        self._heartbeat.start()

    def check(self) -> None:
        """Raise `LockedError` if another driver has taken the lock over."""
        # Wall-clock time also counts while the machine is suspended.
        if time.time() - self._last_beat > STALE_SECONDS:
            self._renew()
        if self._lost.is_set():
            raise LockedError(f"{self.uri}: another driver has taken over this artifact; this one stops")

    def release(self) -> None:
        """Delete the lock file, unless another driver has taken the lock over."""
        self._stop.set()
        if not self._heartbeat.is_alive():
            return
        self._heartbeat.join(RELEASE_SECONDS)
        if self._heartbeat.is_alive():
            return  # storage does not respond; the lock becomes stale
        with contextlib.suppress(OSError, StorageError):
            self._renew()  # fails if another driver has taken the lock over
            if not self._lost.is_set():
                storage.delete_file(self.uri)

    def _content(self) -> bytes:
        return json.dumps(asdict(replace(self._holder, beat=time.time()))).encode()

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS) and not self._lost.is_set():
            self._renew()

    def _renew(self) -> None:
        """Write one heartbeat. If storage fails, the next heartbeat tries again."""
        with self._renewing, contextlib.suppress(OSError, StorageError):
            started = time.time()
            renewed = storage.write_if(self.uri, self._content(), self._version)
            if renewed is None:
                self._lost.set()
            else:
                self._version, self._last_beat = renewed, started

    def _raise_if_beating(self, version: str | None) -> None:
        """Watch a lock file for `STALE_SECONDS`; raise `LockedError` once a holder writes another version of it."""
        deadline = time.monotonic() + STALE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(min(POLL_SECONDS, BEAT_SECONDS))
            holder, current = _read(self.uri)
            if holder is None:
                return
            if current != version:
                raise LockedError(_refusal(self.uri, holder))


def live_holder(folder: str) -> Holder | None:
    """The driver that is building the artifact in `folder`, or None. An estimate; see `is_live`."""
    holder, _ = _read(storage.join(folder, LOCK))
    return holder if holder is not None and is_live(holder) else None


def raise_if_locked(folder: str) -> None:
    """Raise `LockedError` if the heartbeat of a lock is recent: a quick check before Ray starts; `acquire` decides."""
    if holder := live_holder(folder):
        raise LockedError(_refusal(storage.join(folder, LOCK), holder))


def is_live(holder: Holder) -> bool:
    """Whether a heartbeat is less than `STALE_SECONDS` old, and its process exists if it ran on this machine.

    An estimate: it compares the clocks of two hosts.
    """
    return not _has_ended(holder) and abs(time.time() - holder.beat) < STALE_SECONDS


def _read(uri: str) -> tuple[Holder | None, str | None]:
    """Holder and version of a lock file; the holder is None if the content was not written by a driver."""
    try:
        data, version = storage.read_version(uri)
    except FileNotFoundError:
        return None, None
    try:
        return Holder(**json.loads(data)), version
    except (ValueError, TypeError):
        return None, version


def _has_ended(holder: Holder) -> bool:
    """Whether the process of a holder on this machine has ended."""
    if holder.machine != _machine():
        return False
    try:
        started = _start_of(holder.pid)
    except psutil.NoSuchProcess:
        return True
    # A pid is reused; a pid with its start time is not.
    return abs(started - holder.process_started) >= 1


def _start_of(pid: int) -> float:
    """When a process started, in seconds: on Linux since boot, so that changes of the clock do not affect it.

    Raises `psutil.NoSuchProcess` for a process that has ended.
    """
    booted = psutil.boot_time() if psutil.LINUX else 0.0
    return float(psutil.Process(pid).create_time()) - booted


def _machine() -> str:
    """Scope within which a pid is unique: host, boot and pid namespace."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _refusal(uri: str, holder: Holder) -> str:
    age = max(0, round(time.time() - holder.since))
    return (
        f"{uri}: job {holder.job} (pid {holder.pid} on {holder.host}, for {age} s) is building this artifact; "
        "wait until it ends, or stop it, then run again"
    )
