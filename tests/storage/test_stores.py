"""Operations that every store supports: local disk, a real S3 server, an emulator of Google Cloud Storage."""

import hashlib
import io
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from s2l_ray import storage


def random_bytes(number: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(number)


def paths_of(uri: str) -> list[str]:
    return [entry.path for entry in storage.list_files(uri)]


def test_written_files_are_read_and_listed(place: str, tmp_path: Path) -> None:
    data = random_bytes(100_000)
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


def test_missing_files_and_folders(place: str, tmp_path: Path) -> None:
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


def test_folders_are_deleted_and_moved(place: str) -> None:
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


def test_files_support_random_access(place: str) -> None:
    data = random_bytes(1_000_000)
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


def test_the_arrow_file_system_reads_and_writes_the_same_files(place: str) -> None:
    filesystem, path = storage.filesystem(f"{place}/one")
    filesystem = pickle.loads(pickle.dumps(filesystem))
    filesystem.create_dir(f"{path}/deep", recursive=True)
    with filesystem.open_output_stream(f"{path}/deep/a") as stream:
        stream.write(random_bytes(100_000))
    assert paths_of(place) == ["one/deep/a"]
    assert storage.read_bytes(f"{place}/one/deep/a") == random_bytes(100_000)
    storage.write_bytes(f"{place}/one/b", b"b")
    with filesystem.open_input_stream(f"{path}/b") as stream:
        assert stream.read() == b"b"
    found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    assert {one.path for one in found if one.is_file} == {f"{path}/deep/a", f"{path}/b"}
    filesystem.delete_dir(path)
    assert paths_of(place) == []


def test_conditional_write_replaces_a_version_once(place: str) -> None:
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


def test_one_of_many_conditional_writers_succeeds(place: str) -> None:
    version: str | None = None
    for round_number in range(2):
        written_versions = race(f"{place}/marker", round_number, version)
        assert written_versions == [storage.read_version(f"{place}/marker")[1]]
        version = written_versions[0]


def race(uri: str, round_number: int, version: str | None, writers: int = 8) -> list[str]:
    """The new versions of those that succeeded, of writers that all replace the same version."""
    start = threading.Barrier(writers)

    def write(writer: int) -> str | None:
        start.wait()
        return storage.write_if(uri, f"{round_number} {writer}".encode(), version)

    with ThreadPoolExecutor(writers) as threads:
        return [written for written in threads.map(write, range(writers)) if written is not None]


@pytest.mark.parametrize(
    ("root", "joined"),
    [
        ("/a/b", "/a/b/c/d"),
        ("/a/b/", "/a/b/c/d"),
        ("/", "/c/d"),
        ("a", "a/c/d"),
        ("file:///a/b", "/a/b/c/d"),
        ("s3://bucket/a/", "s3://bucket/a/c/d"),
        ("gs://bucket", "gs://bucket/c/d"),
    ],
)
def test_join(root: str, joined: str) -> None:
    assert storage.join(root, "c", "d") == joined
