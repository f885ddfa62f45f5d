"""One driver at a time builds an artefact: the file `building` in its folder.

In: the artefact's folder and the name of the job. Out: a lock that a heartbeat keeps alive while it is held. A dead
process of this host is taken over at once, a heartbeat older than `STALE_SECONDS` too; a living one refuses the second
driver. Units are idempotent, so the lock saves money; correctness does not rest on it.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import psutil

from s2l_ray.artifacts import storage
from s2l_ray.artifacts.errors import LockedError

BEAT_SECONDS = 5.0
STALE_SECONDS = 30.0
NAME = "building"


class Lock:
    """The right to build one artefact; `check` raises once another driver has taken it over."""

    def __init__(self, folder: str, job: str) -> None:
        self.uri = storage.join(folder, NAME)
        self._owner: dict[str, Any] = {
            "job": job,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_started": psutil.Process().create_time(),
            "token": uuid.uuid4().hex,
            "since": time.time(),
        }
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._beats: threading.Thread | None = None

    def acquire(self, take_over: bool = False) -> None:
        """Take the lock. Raises `LockedError` where a living driver holds it, unless `take_over`."""
        with _one_at_a_time(self.uri):
            holder = read_holder(self.uri)
            if holder is None and not storage.create_exclusive(self.uri, self._content()):
                holder = read_holder(self.uri)
            if holder is not None:
                if not take_over and is_alive(holder):
                    raise LockedError(_refusal(self.uri, holder))
                storage.write_bytes(self.uri, self._content())
        self._beats = threading.Thread(target=self._beat, name="building-heartbeat", daemon=True)
        self._beats.start()

    def check(self) -> None:
        """Raise `LockedError` where another driver has taken the artefact over."""
        if self._lost.is_set():
            raise LockedError(f"{self.uri}: another driver has taken this artefact over; this one stops")

    def release(self) -> None:
        """Give the lock back; one that another driver took over stays with it."""
        self._stop.set()
        if self._beats is not None:
            self._beats.join()
        if self._is_mine():
            storage.delete_file(self.uri)

    def _content(self) -> bytes:
        return json.dumps({**self._owner, "beat": time.time()}).encode()

    def _is_mine(self) -> bool:
        holder = read_holder(self.uri)
        return holder is not None and holder["token"] == self._owner["token"]

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):  # a storage that is away for a beat costs one beat
                if not self._is_mine():
                    self._lost.set()
                    return
                storage.write_bytes(self.uri, self._content())


def read_holder(uri: str) -> dict[str, Any] | None:
    """What the lock file says, or None where there is none."""
    try:
        holder: dict[str, Any] = json.loads(storage.read_bytes(uri))
        return holder if {"host", "pid", "token", "beat"} <= holder.keys() else None
    except (FileNotFoundError, ValueError):
        return None


def is_alive(holder: dict[str, Any]) -> bool:
    """Whether the holder still builds: its process lives on this host, or its heartbeat is fresh elsewhere."""
    if holder["host"] != socket.gethostname():
        return bool(time.time() - holder["beat"] < STALE_SECONDS)
    try:
        # a pid is used again, a pid with its start time is not
        return bool(abs(psutil.Process(holder["pid"]).create_time() - holder["process_started"]) < 1)
    except psutil.NoSuchProcess:
        return False


def _refusal(uri: str, holder: dict[str, Any]) -> str:
    age = max(0, round(time.time() - holder["since"]))
    return (
        f"{uri}: job {holder['job']} (pid {holder['pid']} on {holder['host']}, for {age} s) is building this artefact; "
        "wait for it, or run again with --take-over if it is gone"
    )


@contextlib.contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Reading the holder and replacing it is one step for all processes of this host."""
    if not storage.is_local(uri):
        yield
        return
    folder = storage.local_path(uri).parent
    folder.mkdir(parents=True, exist_ok=True)
    turn = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)  # the folder itself; released with the descriptor, also by a crash
        yield
    finally:
        os.close(turn)
