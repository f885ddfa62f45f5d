"""One driver at a time builds an artefact: the file `building` in its folder.

In: the artefact's folder and the name of the job. Out: a lock that a heartbeat keeps alive while it is held. A dead
process of this machine is taken over at once, a heartbeat that stands still for `STALE_SECONDS` too; a living one
refuses the second driver. Each step replaces exactly the version of the file that it has read, so of many drivers one
gets the lock, and one that was away too long finds that it has lost it. Units are idempotent, so the lock saves money;
correctness does not rest on it.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import psutil

from s2l_ray import storage
from s2l_ray.errors import LockedError, StorageError

BEAT_SECONDS = 5.0
STALE_SECONDS = 30.0
RELEASE_SECONDS = 10.0
NAME = "building"

Holder = dict[str, Any]


class Lock:
    """The right to build one artefact; `check` raises once another driver has taken it over."""

    def __init__(self, folder: str, job: str) -> None:
        self.uri = storage.join(folder, NAME)
        self._owner: Holder = {
            "job": job,
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "process_started": psutil.Process().create_time(),
            "token": uuid.uuid4().hex,
            "since": time.time(),
        }
        self._version: str | None = None
        self._beaten = 0.0
        self._one_beat = threading.Lock()
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="building-heartbeat", daemon=True)

    def acquire(self, take_over: bool = False) -> None:
        """Take the lock. Raises `LockedError` where a living driver holds it, unless `take_over`."""
        target: str | None = None
        while self._version is None:
            holder, version = _look(self.uri)
            if holder is not None:
                target = target or holder["token"]
                meant = take_over and holder["token"] == target  # and not one that was faster just now
                if not meant and self._lives(holder, version):
                    raise LockedError(_refusal(self.uri, holder))
            self._version = storage.write_if(self.uri, self._content(), version)
        self._beaten = time.time()
        self._beats.start()

    def check(self) -> None:
        """Raise `LockedError` where another driver has taken the artefact over."""
        if time.time() - self._beaten > STALE_SECONDS:
            self._renew()  # this process, or its storage, was away for so long that another may have
        if self._lost.is_set():
            raise LockedError(f"{self.uri}: another driver has taken this artefact over; this one stops")

    def release(self) -> None:
        """Give the lock back; one that another driver took over stays with it."""
        self._stop.set()
        if not self._beats.is_alive():
            return
        self._beats.join(RELEASE_SECONDS)
        if self._beats.is_alive():
            return  # the storage does not answer; what is not removed grows stale
        with contextlib.suppress(OSError, StorageError):
            self._renew()  # whoever saw it stale until now sees it fresh
            if not self._lost.is_set():
                storage.delete_file(self.uri)

    def _content(self) -> bytes:
        return json.dumps({**self._owner, "beat": time.time()}).encode()

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS) and not self._lost.is_set():
            self._renew()

    def _renew(self) -> None:
        """One heartbeat; a storage that is away for it costs one beat."""
        with self._one_beat, contextlib.suppress(OSError, StorageError):
            begun = time.time()
            renewed = storage.write_if(self.uri, self._content(), self._version)
            if renewed is None:
                self._lost.set()
            else:
                self._version, self._beaten = renewed, begun

    def _lives(self, holder: Holder, version: str | None) -> bool:
        """`is_alive`, but a stale heartbeat is watched for two beats more: its host's clock may be wrong."""
        if is_alive(holder):
            return True
        if _is_here(holder) and not _has_process(holder):
            return False
        time.sleep(2 * BEAT_SECONDS)
        now, current = _look(self.uri)
        return now is not None and current != version


def read_holder(uri: str) -> Holder | None:
    """What the lock file says, or None where there is none."""
    return _look(uri)[0]


def refuse_held(folder: str) -> None:
    """Raise `LockedError` where a living driver builds the artefact: a look ahead of work that `acquire` would end."""
    holder, _ = _look(storage.join(folder, NAME))
    if holder is not None and is_alive(holder):
        raise LockedError(_refusal(storage.join(folder, NAME), holder))


def is_alive(holder: Holder) -> bool:
    """Whether the holder still builds: its heartbeat is fresh, and its process lives where this machine can tell."""
    if _is_here(holder) and not _has_process(holder):
        return False
    return bool(time.time() - holder["beat"] < STALE_SECONDS)


def _look(uri: str) -> tuple[Holder | None, str | None]:
    """The holder and the version of the file; no holder where it is not what a driver writes."""
    try:
        data, version = storage.read_version(uri)
    except FileNotFoundError:
        return None, None
    try:
        holder: Holder = json.loads(data)
        whole = {"job", "host", "machine", "pid", "process_started", "token", "since", "beat"} <= holder.keys()
    except (ValueError, AttributeError):
        return None, version
    return (holder if whole else None), version


def _is_here(holder: Holder) -> bool:
    return bool(holder["machine"] == _machine())


def _has_process(holder: Holder) -> bool:
    try:
        # a pid is used again, a pid with its start time is not
        return bool(abs(psutil.Process(holder["pid"]).create_time() - holder["process_started"]) < 1)
    except psutil.NoSuchProcess:
        return False


def _machine() -> str:
    """Where a pid means the same process: one host since its start, and one container of it."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _refusal(uri: str, holder: Holder) -> str:
    age = max(0, round(time.time() - holder["since"]))
    return (
        f"{uri}: job {holder['job']} (pid {holder['pid']} on {holder['host']}, for {age} s) is building this artefact; "
        "wait for it, or run again with --take-over if it is gone"
    )
