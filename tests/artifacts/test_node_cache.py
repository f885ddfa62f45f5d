"""The node cache: copies of stored files, shared by processes and limited in size."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from s2l_ray import storage
from s2l_ray.artifacts.node_cache import cache_folder, cached_files
from s2l_ray.artifacts.tables import FileRecord, record_of
from s2l_ray.errors import DamagedError
from tests.support.file_programs import PADDING
from tests.support.s3 import use_endpoint

UNREACHABLE = "http://127.0.0.1:9"


@pytest.fixture
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def random_bytes(seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(1_000)


def store(uri: str, **files: bytes) -> list[FileRecord]:
    for name, data in files.items():
        storage.write_bytes(f"{uri}/{name}", data)
    return [record_of(name, data) for name, data in files.items()]


def copies() -> set[bytes]:
    return {path.read_bytes() for path in cache_folder().rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_a_copy_is_downloaded_once_and_a_stale_or_damaged_one_is_never_used(
    s3: str, monkeypatch: pytest.MonkeyPatch, own_temporary_folder: Path
) -> None:
    old = store(s3, weights=b"old weights", config=b"{}")
    with cached_files(s3, old) as folder:
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
            "weights": b"old weights",
            "config": b"{}",
        }
    new = store(s3, weights=b"new weights", config=b"{}")
    with cached_files(s3, new) as folder:
        assert (folder / "weights").read_bytes() == b"new weights"
        (folder / "weights").write_bytes(b"new weightz")
    with cached_files(s3, new) as folder:
        assert (folder / "weights").read_bytes() == b"new weights"
    use_endpoint(UNREACHABLE, monkeypatch)
    with cached_files(s3, new) as folder, cached_files(s3, old) as older:
        assert (folder / "weights").read_bytes() == b"new weights" and (
            older / "weights"
        ).read_bytes() == b"old weights"


def test_the_cache_keeps_to_its_limit_and_evicts_no_copy_in_use(s3: str, own_temporary_folder: Path) -> None:
    records = store(s3, **{f"file{i}": random_bytes(i) for i in range(6)})
    limit = 3_000
    for position, record in enumerate(records[:3]):
        with cached_files(s3, [record], limit) as folder:
            os.utime(folder, (position, position))
    with cached_files(s3, [records[0]], limit) as used, cached_files(s3, [records[3]], limit):
        assert (used / "file0").exists(), "the oldest, but in use"
        assert copies() == {random_bytes(i) for i in (0, 2, 3)}
    with cached_files(s3, [records[4]], 999) as folder:
        assert (folder / "file4").read_bytes() == random_bytes(4)
    assert random_bytes(4) not in copies(), "larger than the limit"


def test_processes_share_copies_while_others_are_evicted(s3: str, own_temporary_folder: Path) -> None:
    *_, unread = store(s3, **{name: name.encode() + PADDING for name in "abcd"})
    command = [sys.executable, "-m", "tests.support.file_programs", "read_cached", s3, str(own_temporary_folder), "4"]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    with cached_files(s3, [unread], 2 * unread.bytes + 98):  # evicts a third copy, left where two were in use
        assert len(copies()) <= 2


def test_files_that_differ_from_their_records_are_refused(place: str, own_temporary_folder: Path) -> None:
    records = store(place, a=b"content")
    storage.write_bytes(f"{place}/a", b"another")
    with pytest.raises(DamagedError, match=re.escape(f"{place}/a")), cached_files(place, records):
        pass
    storage.delete_file(f"{place}/a")
    with pytest.raises(DamagedError, match=re.escape(f"{place}/a")), cached_files(place, records):
        pass
