"""What goes and what stays: in every kind of store, with the command line, and while drivers come."""

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
from s2l_ray.artifacts.manifest import Manifest, begin_execution, put_bytes, write_manifest
from s2l_ray.artifacts.runs import record_run, runs_uri
from s2l_ray.catalog.gc import (
    BROKEN_OFF,
    BROKEN_OFF_SECONDS,
    LEFT_BEHIND,
    MOVED_ASIDE,
    UNNAMED,
    find_garbage,
    remove_garbage,
)
from s2l_ray.errors import DamagedError, LockedError


def name(number: int) -> str:
    return f"{number:012x}"


def finish(root: str, kind: str, number: int) -> str:
    folder = f"{root}/{kind}/{name(number)}"
    begin_execution(folder, {})
    files = [put_bytes(folder, "shard-00000.parquet", bytes(100 + number))]
    write_manifest(folder, Manifest(kind, 1, name(number), {}, {}, {}, {}, files, {"kept": 1}))
    return folder


def found(root: str) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(one.uri.removeprefix(f"{root}/"), one.why, one.paths) for one in find_garbage(root)]


def test_what_no_run_names_goes_and_the_rest_stays(place: str) -> None:
    finish(place, "dataset", 1)
    finish(place, "clusters", 2)
    finish(place, "clusters", 3)
    begin_execution(f"{place}/trajectories/{name(4)}", {})
    begin_execution(f"{place}/trajectories/{name(5)}", {})
    begin_execution(f"{place}/trajectories/{name(6)}", {})
    storage.write_bytes(f"{place}/aside/clusters-x/manifest.json", b"{}")
    storage.write_bytes(storage.join(place, "dataset", name(1), "work", "cut-00001.json"), b"{}")
    storage.write_bytes(f"{place}/logs/small.log", b"not ours to remove")
    storage.write_bytes(f"{place}/notes/{name(7)}/list.txt", b"nor this")
    record_run(place, "old", {"dataset": name(1), "clusters": name(2)}, {})
    record_run(place, "old", {"dataset": name(1), "trajectories": name(4)}, {})
    building = Lock(f"{place}/trajectories/{name(5)}", "another job")
    building.acquire()
    before = storage.list_files(place)

    assert sorted(found(place)) == [
        ("aside/clusters-x", MOVED_ASIDE, ()),
        (f"clusters/{name(3)}", UNNAMED, ()),
        (f"dataset/{name(1)}", LEFT_BEHIND, ("work/cut-00001.json",)),
        (f"trajectories/{name(6)}", UNNAMED, ()),
    ]
    assert [entry.path for entry in storage.list_files(place)] == [entry.path for entry in before]
    removed = list(remove_garbage(place, find_garbage(place)))
    assert sum(one.files for one in removed) == 6
    building.release()
    assert found(place) == [(f"trajectories/{name(5)}", UNNAMED, ())]
    left = {entry.path.split("/")[1] for entry in storage.list_files(place) if not entry.path.startswith("runs/")}
    assert left == {name(1), name(2), name(4), name(5), name(7), "small.log"}
    assert storage.exists(f"{place}/dataset/{name(1)}/shard-00000.parquet")


def test_what_came_into_use_meanwhile_stays(place: str) -> None:
    for number in (1, 2, 3):
        finish(place, "clusters", number)
    garbage = find_garbage(place)
    record_run(place, "new", {"clusters": name(1)}, {})
    building = Lock(f"{place}/clusters/{name(2)}", "new")
    building.acquire()
    assert [one.uri for one in remove_garbage(place, garbage)] == [f"{place}/clusters/{name(3)}"]
    building.check()
    building.release()
    assert storage.exists(f"{place}/clusters/{name(1)}/manifest.json")


def test_nothing_goes_while_a_record_of_runs_is_damaged(place: str) -> None:
    finish(place, "clusters", 1)
    record_run(place, "small", {"clusters": name(2)}, {})
    storage.write_bytes(runs_uri(place, "small"), b"{")
    with pytest.raises(DamagedError, match=r"small\.json"):
        find_garbage(place)


def test_old_temporary_files_are_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(tmp_path)
    finish(root, "clusters", 1)
    record_run(root, "small", {"clusters": name(1)}, {})
    storage.write_bytes(f"{root}/clusters/{name(1)}/.shard-00001.parquet.123", b"half")
    assert found(root) == []
    later = time.time() + BROKEN_OFF_SECONDS + 60
    monkeypatch.setattr("s2l_ray.catalog.gc.time.time", lambda: later)
    (garbage,) = find_garbage(root)
    assert garbage.why == BROKEN_OFF and garbage.files == 1
    assert list(remove_garbage(root, [garbage])) == [garbage]
    assert storage.list_temporary_files(root) == []


def test_the_command_removes_only_where_it_is_told_to(tmp_path: Path) -> None:
    finish(str(tmp_path), "clusters", 1)

    def gc(*options: str) -> str:
        command = [sys.executable, "-m", "s2l_ray", "gc", str(tmp_path), *options]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert f"clusters/{name(1)}" in gc()
    assert [one["why"] for one in json.loads(gc("--json"))["found"]] == [UNNAMED]
    assert (tmp_path / "clusters" / name(1) / "manifest.json").exists()
    assert json.loads(gc("--yes", "--json"))["removed"] == [f"{tmp_path}/clusters/{name(1)}"]
    assert not (tmp_path / "clusters" / name(1)).exists()


def acquired(folder: str) -> Lock:
    """A driver's lock, as soon as it gets it."""
    while True:
        lock = Lock(folder, "driver")
        with contextlib.suppress(LockedError):
            lock.acquire()
            return lock


def test_drivers_that_begin_while_it_runs_lose_nothing(tmp_path: Path) -> None:
    """Whatever the moment: a driver that records its run and has the lock keeps its artefact."""
    root = str(tmp_path)
    finish(root, "dataset", 0)
    record_run(root, "keep", {"dataset": name(0)}, {})
    stop = threading.Event()

    def collect() -> None:
        while not stop.is_set():
            list(remove_garbage(root, find_garbage(root)))

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        for number in range(1, 15):
            begin_execution(f"{root}/clusters/{name(number)}", {})  # of a driver before, that nobody remembers
            record_run(root, f"run{number}", {"clusters": name(number)}, {})
            lock = acquired(f"{root}/clusters/{name(number)}")
            storage.write_bytes(f"{root}/clusters/{name(number)}/unit.parquet", b"paid for")
            lock.check()
            lock.release()
    finally:
        stop.set()
        collector.join()
    for number in range(1, 15):
        assert storage.read_bytes(f"{root}/clusters/{name(number)}/unit.parquet") == b"paid for"
