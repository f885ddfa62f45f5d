"""Object stores: interrupted uploads, long listings, error messages, and a server that fails."""

import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from s2l_ray import storage
from s2l_ray.errors import ConfigError, StorageError
from s2l_ray.storage import object_store
from tests.support.fault_proxy import Faults, fault_proxy
from tests.support.s3 import BUCKET, SECRET, S3Server, use_endpoint


def kill_upload(source: Path, uri: str, begun: Callable[[], bool]) -> None:
    """Upload a file in a process that is killed once `begun()` is true."""
    command = [sys.executable, "-m", "tests.support.file_programs", "upload", str(source), uri]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while not begun() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()


def test_a_killed_write_to_disk_leaves_no_visible_file(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "store"
    source.touch()
    os.truncate(source, 200 << 20)
    folder.mkdir()
    kill_upload(source, f"{folder}/large", lambda: bool(list(folder.iterdir())))
    assert [entry.bytes for entry in storage.list_files(str(folder))] in ([], [200 << 20])


def test_an_upload_killed_between_two_parts_leaves_no_visible_file(
    s3: str, running_s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.touch()
    os.truncate(source, 60 << 20)
    with fault_proxy(running_s3.endpoint, Faults(0)) as proxy:
        use_endpoint(proxy.endpoint, monkeypatch)
        kill_upload(source, f"{s3}/large", lambda: proxy.counts[""] >= 2)
    assert proxy.counts[""] < 10, "the upload was completed before the process was killed"
    use_endpoint(running_s3.endpoint, monkeypatch)
    assert not storage.exists(s3)


@pytest.mark.slow
def test_a_long_listing_is_complete(s3: str) -> None:
    names = sorted([f"losses/step-{i % 3:06d}/shard-{i:05d}.parquet" for i in range(1_200)] + ["manifest.json"])
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda name: storage.write_bytes(f"{s3}/{name}", b"x"), names))
    assert [entry.path for entry in storage.list_files(s3)] == names
    storage.delete_folder(s3)
    assert [entry.path for entry in storage.list_files(s3)] == []


REFUSED = ["bucket", "key", "secret", "none", "endpoint", "google", "azure"]
REFUSALS = [
    ({}, "s3://no-such-bucket/a", "no-such-bucket"),
    ({"AWS_ACCESS_KEY_ID": "somebody-else"}, f"s3://{BUCKET}/a", "AWS_ACCESS_KEY_ID"),
    ({"AWS_SECRET_ACCESS_KEY": "another-secret-key"}, f"s3://{BUCKET}/a", "AWS_SECRET_ACCESS_KEY"),
    ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, f"s3://{BUCKET}/a", "AWS_ACCESS_KEY"),
    ({"AWS_ENDPOINT_URL": "http://user:planted@127.0.0.1:9"}, f"s3://{BUCKET}/a", "127.0.0.1:9 "),
    ({"GOOGLE_SERVICE_ACCOUNT_KEY": "{planted"}, f"gs://{BUCKET}/a", "GOOGLE_APPLICATION_CREDENTIALS"),
    ({"AZURE_STORAGE_ACCOUNT_NAME": "a", "AZURE_STORAGE_ACCOUNT_KEY": "planted!"}, f"az://{BUCKET}/a", "ACCOUNT_KEY"),
]


@pytest.mark.parametrize(("variables", "uri", "named"), REFUSALS, ids=REFUSED)
def test_errors_name_the_uri_and_the_setting_to_correct(
    s3: str, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], uri: str, named: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(object_store, "ATTEMPTS", 2)
    for call in (storage.read_bytes, storage.list_files, lambda uri: storage.write_bytes(uri, b"x")):
        with pytest.raises(StorageError) as caught:
            call(uri)
        assert uri in str(caught.value) and named in str(caught.value)
        text = "".join(traceback.format_exception(caught.value))
        assert SECRET not in text and "another-secret-key" not in text and "planted" not in text


@pytest.mark.slow
def test_transfers_of_large_files_need_little_memory(s3: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.touch()
    os.truncate(source, 400 << 20)
    command = [sys.executable, "-m", "tests.support.file_programs", "transfer", str(source), f"{s3}/large"]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert peak < 250 << 20
    assert storage.size(f"{s3}/large") == 400 << 20


def test_a_uri_with_credentials_or_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="s3://") as caught:
        storage.read_bytes("s3://key:planted-secret@bucket/a")
    assert "planted-secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="hdfs://a/b"):
        storage.list_files("hdfs://a/b")


def shorten_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the read timeout to one second."""
    monkeypatch.setattr(object_store, "READ_SECONDS", 1.0)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 5))])
def test_faults_lose_duplicate_and_corrupt_nothing(
    s3: str, running_s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seed: int
) -> None:
    shorten_timeout(monkeypatch)
    with fault_proxy(running_s3.endpoint, Faults(0.15, seed, stall_seconds=1.5)) as proxy:
        use_endpoint(proxy.endpoint, monkeypatch)
        written = {f"{i:03d}.bin": np.random.default_rng(i).bytes(1_000 + 37 * i) for i in range(15)}
        for name, data in written.items():
            storage.write_bytes(f"{s3}/{name}", data)
            assert storage.read_bytes(f"{s3}/{name}") == data
        assert [(entry.path, entry.bytes) for entry in storage.list_files(s3)] == [
            (name, len(data)) for name, data in sorted(written.items())
        ]
        (tmp_path / "large").write_bytes(large := np.random.default_rng(seed).bytes(20 << 20))
        storage.put_file(tmp_path / "large", f"{s3}/one/large")
        storage.move_folder(f"{s3}/one", f"{s3}/two")
        storage.get_file(f"{s3}/two/large", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == large
        storage.delete_folder(f"{s3}/two")
        version = None
        for number in range(10):
            version = storage.write_if(f"{s3}/marker", f"round {number}".encode(), version)
            assert version is not None, "a lost response is not a refusal"
        assert any(proxy.counts), "the proxy injected no fault"
    use_endpoint(running_s3.endpoint, monkeypatch)
    assert {name: storage.read_bytes(f"{s3}/{name}") for name in written} == written
    assert {entry.path for entry in storage.list_files(s3)} == {*written, "marker"}


def test_permanent_faults_are_an_error_after_a_limited_number_of_attempts(
    s3: str, running_s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "ATTEMPTS", 3)
    storage.write_bytes(f"{s3}/a", b"old")
    for kind in ("refuse", "cut", "break"):
        with fault_proxy(running_s3.endpoint, Faults(1.0, kinds=(kind,))) as proxy:
            use_endpoint(proxy.endpoint, monkeypatch)
            with pytest.raises(StorageError, match=re.escape(f"{s3}/a")):
                _ = storage.read_bytes(f"{s3}/a") if kind == "cut" else storage.write_bytes(f"{s3}/a", b"new" * 100)
            assert 3 <= proxy.counts[kind] <= 9
    use_endpoint(running_s3.endpoint, monkeypatch)
    assert storage.read_bytes(f"{s3}/a") == b"old"
