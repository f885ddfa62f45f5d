"""What gc deletes and what it keeps: in every kind of store, with the command line, and while drivers start."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from s2l_ray import storage
from s2l_ray.artifacts.lock import Lock
from s2l_ray.artifacts.runs import HISTORY, record_run
from s2l_ray.catalog.gc import (
    LEFT_OVER,
    REPLACED_BY_REBUILD,
    TEMPORARY,
    TEMPORARY_SECONDS,
    UNUSED,
    find_garbage,
    remove_garbage,
)
from s2l_ray.errors import DamagedError, LockedError
from tests.support.sample_artifacts import begin, complete, fingerprint


def found(root: str) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(one.uri.removeprefix(f"{root}/"), one.why, one.paths) for one in find_garbage(root)]


def test_what_no_run_names_is_deleted_and_the_rest_is_kept(place: str) -> None:
    complete(place, "dataset", fingerprint(1))
    complete(place, "clusters", fingerprint(2))
    complete(place, "clusters", fingerprint(3))
    for number in (4, 5, 6):
        begin(place, "trajectories", fingerprint(number))
    storage.write_bytes(f"{place}/replaced/clusters-x/manifest.json", b"{}")
    storage.write_bytes(storage.join(place, "dataset", fingerprint(1), "work", "cut-00001.json"), b"{}")
    storage.write_bytes(f"{place}/logs/small.log", b"not part of any artifact")
    storage.write_bytes(f"{place}/notes/{fingerprint(7)}/list.txt", b"of no known kind")
    record_run(place, "old", {"dataset": fingerprint(1), "clusters": fingerprint(2)}, {})
    record_run(place, "old", {"dataset": fingerprint(1), "trajectories": fingerprint(4)}, {})
    building = Lock(f"{place}/trajectories/{fingerprint(5)}", "another job")
    building.acquire()
    before = storage.list_files(place)

    assert sorted(found(place)) == [
        (f"clusters/{fingerprint(3)}", UNUSED, ()),
        (f"dataset/{fingerprint(1)}", LEFT_OVER, ("work/cut-00001.json",)),
        ("replaced/clusters-x", REPLACED_BY_REBUILD, ()),
        (f"trajectories/{fingerprint(6)}", UNUSED, ()),
    ]
    assert [entry.path for entry in storage.list_files(place)] == [entry.path for entry in before]
    removed = list(remove_garbage(place, find_garbage(place)))
    assert sum(one.files for one in removed) == 6
    building.release()
    assert found(place) == [(f"trajectories/{fingerprint(5)}", UNUSED, ())]
    left = {entry.path.split("/")[1] for entry in storage.list_files(place) if not entry.path.startswith("runs/")}
    assert left == {*(fingerprint(number) for number in (1, 2, 4, 5, 7)), "small.log"}
    assert storage.exists(f"{place}/dataset/{fingerprint(1)}/shard-00000.parquet")


@pytest.mark.slow
def test_artifacts_used_since_they_were_found_are_kept(place: str) -> None:
    for number in (1, 2, 3):
        complete(place, "clusters", fingerprint(number))
    garbage = find_garbage(place)
    record_run(place, "new", {"clusters": fingerprint(1)}, {})
    building = Lock(f"{place}/clusters/{fingerprint(2)}", "new")
    building.acquire()
    assert [one.uri for one in remove_garbage(place, garbage)] == [f"{place}/clusters/{fingerprint(3)}"]
    building.check()
    building.release()
    assert storage.exists(f"{place}/clusters/{fingerprint(1)}/manifest.json")


def test_nothing_is_deleted_while_a_history_is_damaged(place: str) -> None:
    complete(place, "clusters", fingerprint(1))
    record_run(place, "small", {"clusters": fingerprint(2)}, {})
    storage.write_bytes(f"{place}/runs/small/{HISTORY}", b"{")
    with pytest.raises(DamagedError, match=r"runs/small/history\.json"):
        find_garbage(place)


def test_old_temporary_files_are_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(tmp_path)
    complete(root, "clusters", fingerprint(1))
    record_run(root, "small", {"clusters": fingerprint(1)}, {})
    storage.write_bytes(f"{root}/clusters/{fingerprint(1)}/.shard-00001.parquet.123", b"half")
    assert found(root) == []
    later = time.time() + TEMPORARY_SECONDS + 60
    monkeypatch.setattr("s2l_ray.catalog.gc.time.time", lambda: later)
    (garbage,) = find_garbage(root)
    assert garbage.why == TEMPORARY and garbage.files == 1
    assert list(remove_garbage(root, [garbage])) == [garbage]
    assert storage.list_temporary_files(root) == []


def test_the_command_deletes_only_with_yes(tmp_path: Path) -> None:
    complete(str(tmp_path), "clusters", fingerprint(1))

    def gc(*options: str) -> str:
        command = [sys.executable, "-m", "s2l_ray", "gc", str(tmp_path), *options]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert f"clusters/{fingerprint(1)}" in gc()
    assert [one["why"] for one in json.loads(gc("--json"))["found"]] == [UNUSED]
    assert (tmp_path / "clusters" / fingerprint(1) / "manifest.json").exists()
    assert json.loads(gc("--yes", "--json"))["removed"] == [f"{tmp_path}/clusters/{fingerprint(1)}"]
    assert not (tmp_path / "clusters" / fingerprint(1)).exists()


def acquired(folder: str) -> Lock:
    """A driver's lock, as soon as it can be taken."""
    while True:
        lock = Lock(folder, "driver")
        with contextlib.suppress(LockedError):
            lock.acquire()
            return lock


def test_drivers_that_begin_during_gc_lose_nothing(tmp_path: Path) -> None:
    """At any moment: a driver that has recorded its run and holds the lock keeps its artifact."""
    root = str(tmp_path)
    complete(root, "dataset", fingerprint(0))
    record_run(root, "keep", {"dataset": fingerprint(0)}, {})
    stop = threading.Event()

    def collect() -> None:
        while not stop.is_set():
            list(remove_garbage(root, find_garbage(root)))

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        for number in range(1, 15):
            uri = begin(root, "clusters", fingerprint(number))  # by an earlier driver that no history names
            record_run(root, f"run{number}", {"clusters": fingerprint(number)}, {})
            lock = acquired(uri)
            storage.write_bytes(f"{uri}/unit.parquet", b"paid for")
            lock.check()
            lock.release()
    finally:
        stop.set()
        collector.join()
    for number in range(1, 15):
        assert storage.read_bytes(f"{root}/clusters/{fingerprint(number)}/unit.parquet") == b"paid for"
