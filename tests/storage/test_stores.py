"""Files on a disk and in a real S3 server: the same tests for both; then what only an object store does."""

import hashlib
import io
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2l_ray import storage
from s2l_ray.artifacts.node_cache import cache_folder, hold
from s2l_ray.artifacts.tables import FileRecord, record_of
from s2l_ray.errors import ConfigError, StorageError
from s2l_ray.storage import s3_client
from tests.support.fault_proxy import Faults, fault_proxy
from tests.support.s3 import BUCKET, SECRET, S3Server, lead_to

NOBODY = "http://127.0.0.1:9"


def some_bytes(number: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(number)


def paths_of(uri: str) -> list[str]:
    return [entry.path for entry in storage.list_files(uri)]


def test_what_is_put_is_read_and_listed(place: str, tmp_path: Path) -> None:
    data = some_bytes(100_000)
    storage.write_bytes(f"{place}/a.bin", b"old")
    storage.write_bytes(f"{place}/a.bin", data)
    storage.write_bytes(f"{place}/deep/er/b é+%.bin", b"")
    (tmp_path / "file").write_bytes(data[:500])
    storage.put_file(tmp_path / "file", f"{place}/deep/c.bin")

    assert storage.read_bytes(f"{place}/a.bin") == data
    assert storage.read_bytes(f"{place}/deep/er/b é+%.bin") == b""
    assert [(entry.path, entry.bytes) for entry in storage.list_files(place)] == [
        ("a.bin", 100_000),
        ("deep/c.bin", 500),
        ("deep/er/b é+%.bin", 0),
    ]
    assert storage.list_folders(place) == ["deep"]
    assert storage.size(f"{place}/a.bin") == 100_000
    assert storage.sha256_file(f"{place}/a.bin") == hashlib.sha256(data).hexdigest()
    storage.get_file(f"{place}/deep/c.bin", tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == data[:500]


def test_what_is_missing(place: str, tmp_path: Path) -> None:
    storage.write_bytes(f"{place}/folder/a.bin", b"a")
    for call in (storage.read_bytes, storage.size, storage.open_input):
        with pytest.raises(FileNotFoundError):
            call(f"{place}/none")
    with pytest.raises(FileNotFoundError):
        storage.get_file(f"{place}/none", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert storage.list_files(f"{place}/none") == storage.list_folders(f"{place}/none") == []
    assert not storage.exists(f"{place}/none") and not storage.exists(f"{place}/fold")
    assert storage.exists(f"{place}/folder") and storage.exists(f"{place}/folder/a.bin")
    assert storage.find(f"{place}/folder") is None
    storage.delete_file(f"{place}/none")
    storage.delete_folder(f"{place}/none")


def test_folders_are_removed_and_moved_whole(place: str) -> None:
    for name in ("one/a", "one/b/c", "one2/a", "two/a"):
        storage.write_bytes(f"{place}/{name}", name.encode())
    storage.move_folder(f"{place}/one", f"{place}/aside/one")
    assert paths_of(place) == ["aside/one/a", "aside/one/b/c", "one2/a", "two/a"]
    assert storage.read_bytes(f"{place}/aside/one/b/c") == b"one/b/c"
    storage.delete_folder(f"{place}/two")
    storage.delete_file(f"{place}/one2/a")
    assert paths_of(place) == ["aside/one/a", "aside/one/b/c"]


def test_temporary_names_are_not_listed(place: str) -> None:
    for name in ("a", ".a.123", "folder/.b", ".hidden/c"):
        storage.write_bytes(f"{place}/{name}", b"x")
    assert paths_of(place) == ["a"]


def test_files_are_read_at_any_position(place: str) -> None:
    data = some_bytes(1_000_000)
    storage.write_bytes(f"{place}/a.bin", data)
    with storage.open_input(f"{place}/a.bin") as stream:
        assert stream.size() == len(data)
        for start, length in ((999_000, 5_000), (0, 10), (123_456, 600_000), (5, 0)):
            stream.seek(start)
            assert stream.read(length) == data[start : start + length]
    table = pa.table({"number": range(50_000), "text": [f"row {i}" for i in range(50_000)]})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=10_000)
    storage.write_bytes(f"{place}/t.parquet", sink.getvalue())
    with storage.open_input(f"{place}/t.parquet") as stream:
        assert pq.ParquetFile(stream).read_row_group(3, ["number"])["number"].to_pylist() == list(range(30_000, 40_000))


def test_a_version_is_replaced_once(place: str) -> None:
    uri = f"{place}/marker"
    first = storage.write_if(uri, b"first", None)
    assert first is not None
    assert storage.write_if(uri, b"another", None) is None
    assert storage.read_version(uri) == (b"first", first)
    second = storage.write_if(uri, b"second", first)
    assert second is not None and second != first
    assert storage.write_if(uri, b"late", first) is None
    assert storage.read_bytes(uri) == b"second"
    storage.delete_file(uri)
    assert storage.write_if(uri, b"late", second) is None
    assert not storage.exists(uri)


def test_of_many_writers_of_one_version_one_succeeds(place: str) -> None:
    version: str | None = None
    for turn in range(2):
        won = race(f"{place}/marker", turn, version)
        assert won == [storage.read_version(f"{place}/marker")[1]]
        version = won[0]


def race(uri: str, turn: int, version: str | None, writers: int = 8) -> list[str]:
    """The versions that writers got who all wanted to replace the same one."""
    at_once = threading.Barrier(writers)

    def write(writer: int) -> str | None:
        at_once.wait()
        return storage.write_if(uri, f"{turn} {writer}".encode(), version)

    with ThreadPoolExecutor(writers) as threads:
        return [written for written in threads.map(write, range(writers)) if written is not None]


PUT = """
import sys
from pathlib import Path
from s2l_ray.storage import s3_client
from s2l_ray import storage
s3_client.PART_BYTES = 8 << 20
storage.put_file(Path(sys.argv[1]), sys.argv[2])
"""


def kill_upload(source: Path, uri: str, begun: Callable[[], bool]) -> None:
    """Put a file in a process that is killed at the moment `begun`."""
    process = subprocess.Popen([sys.executable, "-c", PUT, str(source), uri])
    deadline = time.monotonic() + 60
    while not begun() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()


def test_a_killed_copy_on_a_disk_leaves_nothing_to_see(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "store"
    source.touch()
    os.truncate(source, 200 << 20)
    folder.mkdir()
    kill_upload(source, f"{folder}/large", lambda: bool(list(folder.iterdir())))
    assert [entry.bytes for entry in storage.list_files(str(folder))] in ([], [200 << 20])


# ---- only in an object store


def test_an_upload_killed_between_two_parts_leaves_nothing_to_see(
    s3: str, running_s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.touch()
    os.truncate(source, 60 << 20)
    with fault_proxy(running_s3.endpoint, Faults(0)) as proxy:
        lead_to(proxy.endpoint, monkeypatch)
        kill_upload(source, f"{s3}/large", lambda: proxy.done[""] >= 2)
    assert proxy.done[""] < 10, "parts and the end were never sent"
    lead_to(running_s3.endpoint, monkeypatch)
    assert not storage.exists(s3)


@pytest.mark.slow
def test_a_long_listing_is_complete(s3: str) -> None:
    names = sorted([f"losses/step-{i % 3:06d}/shard-{i:05d}.parquet" for i in range(1_200)] + ["manifest.json"])
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda name: storage.write_bytes(f"{s3}/{name}", b"x"), names))
    assert paths_of(s3) == names
    storage.delete_folder(s3)
    assert paths_of(s3) == []


REFUSALS = [
    ({}, "s3://no-such-bucket/a", "no such bucket; create it"),
    ({"AWS_ACCESS_KEY_ID": "somebody-else"}, f"s3://{BUCKET}/a", "correct AWS_ACCESS_KEY_ID"),
    ({"AWS_SECRET_ACCESS_KEY": "another-secret-key"}, f"s3://{BUCKET}/a", "correct AWS_SECRET_ACCESS_KEY"),
    ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, f"s3://{BUCKET}/a", "no credentials; set AWS_ACCESS_KEY"),
    ({"AWS_ENDPOINT_URL": "http://user:planted@127.0.0.1:9"}, f"s3://{BUCKET}/a", "no whole answer from 127.0.0.1:9 "),
]


@pytest.mark.parametrize(("variables", "uri", "remedy"), REFUSALS, ids=["bucket", "key", "secret", "none", "endpoint"])
def test_what_the_store_refuses_is_said_with_its_remedy(
    s3: str, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], uri: str, remedy: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3_client, "ATTEMPTS", 2)
    for call in (storage.read_bytes, storage.list_files, lambda uri: storage.write_bytes(uri, b"x")):
        with pytest.raises(StorageError) as caught:
            call(uri)
        assert uri in str(caught.value) and remedy in str(caught.value)
        told = "".join(traceback.format_exception(caught.value))
        assert SECRET not in told and "another-secret-key" not in told and "planted" not in told


def test_a_place_holds_no_credentials_and_a_known_scheme() -> None:
    with pytest.raises(ConfigError, match="take them out") as caught:
        storage.read_bytes("s3://key:planted-secret@bucket/a")
    assert "planted-secret" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"hdfs://a/b: no such storage; write .* s3://"):
        storage.list_files("hdfs://a/b")


# ---- a store that fails


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timeouts and waits of seconds in place of minutes."""
    monkeypatch.setattr(s3_client, "READ_SECONDS", 1.0)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 5))])
def test_through_faults_nothing_is_lost_doubled_or_wrong(
    s3: str, running_s3: S3Server, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    quick(monkeypatch)
    with fault_proxy(running_s3.endpoint, Faults(0.15, seed, stall_seconds=1.5)) as proxy:
        lead_to(proxy.endpoint, monkeypatch)
        written = {f"{i:03d}.bin": some_bytes(1_000 + 37 * i, seed=i) for i in range(15)}
        for name, data in written.items():
            storage.write_bytes(f"{s3}/{name}", data)
            assert storage.read_bytes(f"{s3}/{name}") == data
        assert [(entry.path, entry.bytes) for entry in storage.list_files(s3)] == [
            (name, len(data)) for name, data in sorted(written.items())
        ]
        version = None
        for turn in range(10):
            version = storage.write_if(f"{s3}/marker", f"turn {turn}".encode(), version)
            assert version is not None, "an answer that was lost is no refusal"
        assert any(proxy.done), "the proxy did no harm, so this shows nothing"
    lead_to(running_s3.endpoint, monkeypatch)
    assert {name: storage.read_bytes(f"{s3}/{name}") for name in written} == written


def test_a_store_that_only_fails_is_an_error_after_a_limit(
    s3: str, running_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "ATTEMPTS", 3)
    storage.write_bytes(f"{s3}/a", b"old")
    for kind, words in (("refuse", "answered 50[03] .* 3 times"), ("cut", "no whole answer"), ("break", "no whole")):
        with fault_proxy(running_s3.endpoint, Faults(1.0, kinds=(kind,))) as proxy:
            lead_to(proxy.endpoint, monkeypatch)
            with pytest.raises(StorageError, match=words):
                _ = storage.read_bytes(f"{s3}/a") if kind == "cut" else storage.write_bytes(f"{s3}/a", b"new" * 100)
            assert proxy.done[kind] == 3
    lead_to(running_s3.endpoint, monkeypatch)
    assert storage.read_bytes(f"{s3}/a") == b"old"


# ---- the node's copies


@pytest.fixture
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def stored(uri: str, **files: bytes) -> list[FileRecord]:
    for name, data in files.items():
        storage.write_bytes(f"{uri}/{name}", data)
    return [record_of(name, data) for name, data in files.items()]


def copies() -> set[bytes]:
    return {path.read_bytes() for path in cache_folder().rglob("*") if path.is_file() and path.suffix != ".turn"}


def test_a_copy_is_fetched_once_and_a_stale_or_torn_one_never_used(
    s3: str, running_s3: S3Server, monkeypatch: pytest.MonkeyPatch, own_temporary_folder: Path
) -> None:
    old = stored(s3, weights=b"old weights", config=b"{}")
    with hold(s3, old) as folder:
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
            "weights": b"old weights",
            "config": b"{}",
        }
    new = stored(s3, weights=b"new weights", config=b"{}")
    with hold(s3, new) as folder:
        assert (folder / "weights").read_bytes() == b"new weights"
        (folder / "weights").write_bytes(b"new weightz")
    with hold(s3, new) as folder:
        assert (folder / "weights").read_bytes() == b"new weights"
    lead_to(NOBODY, monkeypatch)
    with hold(s3, new) as folder, hold(s3, old) as older:
        assert (folder / "weights").read_bytes() == b"new weights" and (
            older / "weights"
        ).read_bytes() == b"old weights"


def test_copies_stay_within_their_size_and_those_in_use_stay(s3: str, own_temporary_folder: Path) -> None:
    records = stored(s3, **{f"file{i}": some_bytes(1_000, i) for i in range(6)})
    limit = 3_000
    for position, record in enumerate(records[:3]):
        with hold(s3, [record], limit) as folder:
            os.utime(folder, (position, position))
    with hold(s3, [records[0]], limit) as used, hold(s3, [records[3]], limit):
        assert (used / "file0").exists(), "the oldest, but in use"
        assert copies() == {some_bytes(1_000, i) for i in (0, 2, 3)}
    with hold(s3, [records[4]], 999) as folder:
        assert (folder / "file4").read_bytes() == some_bytes(1_000, 4)
    assert some_bytes(1_000, 4) not in copies(), "larger than all that may be kept"


HOLD = """
import sys, tempfile
from s2l_ray.artifacts.node_cache import hold
from s2l_ray.artifacts.tables import record_of
tempfile.tempdir = sys.argv[2]
data = bytes(1000)
for _ in range(int(sys.argv[3])):
    for name in "abc":
        with hold(sys.argv[1], [record_of(name, name.encode() + data)], 2100) as folder:
            assert (folder / name).read_bytes() == name.encode() + data
"""


def test_processes_share_copies_while_others_are_removed(s3: str, own_temporary_folder: Path) -> None:
    stored(s3, **{name: name.encode() + bytes(1000) for name in "abc"})
    command = [sys.executable, "-c", HOLD, s3, str(own_temporary_folder), "4"]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert len(copies()) <= 2
