"""Listing of a root: states of artifacts, runs that use them, sizes; in every kind of store."""

import calendar
import time
from pathlib import Path

import pytest

from s2l_ray import storage
from s2l_ray.artifacts.lock import Lock
from s2l_ray.artifacts.runs import HISTORY, record_run
from s2l_ray.catalog.listing import (
    BUILDING,
    COMPLETE,
    DAMAGED,
    MISSING,
    PARTIAL,
    artifact_state,
    find_incomplete,
    list_root,
)
from s2l_ray.errors import S2LError
from tests.support.sample_artifacts import COUNTS, begin, complete, fingerprint, put_bytes


def state_of(uri: str) -> str:
    return artifact_state(uri, storage.list_files(uri)).name


def test_states(place: str) -> None:
    intact = complete(place, "dataset", fingerprint(1)).uri
    begun = begin(place, "trajectories", fingerprint(2))
    put_bytes(begun, "losses/step-000000/shard-00000.parquet", b"a unit")
    cut = complete(place, "clusters", fingerprint(3)).uri
    storage.write_bytes(f"{cut}/shard-00000.parquet", b"cut")
    lost = complete(place, "subset", fingerprint(4)).uri
    storage.delete_file(f"{lost}/shard-00000.parquet")
    unreadable = complete(place, "subset", fingerprint(5)).uri
    storage.write_bytes(f"{unreadable}/manifest.json", storage.read_bytes(f"{unreadable}/manifest.json")[:-9])
    built = begin(place, "checkpoints", fingerprint(6))
    lock = Lock(built, "another job")
    lock.acquire()
    expected = {intact: COMPLETE, begun: PARTIAL, cut: DAMAGED, lost: DAMAGED, unreadable: DAMAGED, built: BUILDING}
    listed = {info.uri: info for info in list_root(place).artifacts}
    assert {uri: info.state for uri, info in listed.items()} == expected
    assert {uri: state_of(uri) for uri in expected} == expected
    assert state_of(f"{place}/dataset/{fingerprint(7)}") == MISSING
    for uri in (cut, lost):
        assert "shard-00000.parquet" in listed[uri].problem
    assert "another job" in listed[built].problem
    lock.release()
    assert state_of(built) == PARTIAL


def test_rows_sizes_and_runs(place: str) -> None:
    dataset = complete(place, "dataset", fingerprint(1), {"shard-00000.parquet": bytes(1000)}).uri
    begin(place, "clusters", fingerprint(2))
    record_run(place, "a", {"dataset": fingerprint(1)}, {})
    record_run(place, "b", {"dataset": fingerprint(9)}, {})
    record_run(place, "b", {"dataset": fingerprint(1), "clusters": fingerprint(2)}, {})
    storage.write_bytes(f"{place}/replaced/clusters-x/shard-00000.parquet", bytes(300))
    storage.write_bytes(f"{place}/replaced/clusters-x/manifest.json", bytes(40))
    before = calendar.timegm(time.gmtime())

    listing = list_root(place)
    first, second = listing.artifacts
    assert (first.kind, first.fingerprint, first.uri) == ("dataset", fingerprint(1), dataset)
    assert first.rows == COUNTS.kept and second.rows is None
    entries = storage.list_files(dataset)
    assert (first.files, first.bytes) == (len(entries), sum(entry.bytes for entry in entries))
    assert first.runs == ("a", "b") and second.runs == ("b",)
    assert listing.replaced_bytes == 340
    assert [(run.name, run.entries) for run in listing.runs] == [("a", 1), ("b", 2)]
    assert listing.runs[1].fingerprints == {"dataset": fingerprint(1), "clusters": fingerprint(2)}
    assert all(abs(run.last - before) < 60 for run in listing.runs)


def test_a_damaged_history_is_reported_and_the_rest_is_listed(place: str) -> None:
    complete(place, "dataset", fingerprint(1))
    record_run(place, "intact", {"dataset": fingerprint(1)}, {})
    record_run(place, "damaged", {"dataset": fingerprint(1)}, {})
    storage.write_bytes(f"{place}/runs/damaged/{HISTORY}", b"{")
    listing = list_root(place)
    assert [info.runs for info in listing.artifacts] == [("intact",)]
    assert {run.name: bool(run.problem) for run in listing.runs} == {"intact": False, "damaged": True}


def test_other_folders_are_not_artifacts(place: str) -> None:
    complete(place, "dataset", fingerprint(1))
    storage.write_bytes(f"{place}/logs/small.log", b"a log")
    storage.write_bytes(f"{place}/dataset/notes/list.txt", b"notes")
    assert [info.fingerprint for info in list_root(place).artifacts] == [fingerprint(1)]


def test_a_root_without_artifacts_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing else")
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(S2LError, match=str(root)):
            list_root(str(root))


def test_an_incomplete_artifact_is_found_by_its_uri(place: str) -> None:
    begun = begin(place, "clusters", fingerprint(1))
    info = find_incomplete(f"{begun}/")
    assert info is not None
    assert (info.kind, info.fingerprint, info.state, info.files) == ("clusters", fingerprint(1), PARTIAL, 1)
    assert find_incomplete(complete(place, "clusters", fingerprint(2)).uri) is None
    assert find_incomplete(f"{place}/clusters/{fingerprint(3)}") is None
