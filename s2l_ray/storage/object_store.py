"""The store of a bucket or container: s3://, gs:// and az:// through obstore.

An object is written by one request, or in parts that become visible with the last one. Endpoint, region and credentials
are those that obstore finds in the environment. Requests have timeouts and a bounded number of attempts.
"""

import contextlib
import io
import itertools
import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import obstore
import pyarrow as pa
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import AzureStore, GCSStore, S3Store

from s2l_ray.errors import ConfigError, StorageError
from s2l_ray.storage.disk import Entry, temporary_file
from s2l_ray.storage.object_errors import CREDENTIALS, is_missing_bucket, is_repeatable, translate

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta, PutMode, PutResult
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.store import ClientConfig, RetryConfig, S3Config

T = TypeVar("T")
Bucket = S3Store | GCSStore | AzureStore

ATTEMPTS = 8
CONNECT_SECONDS, READ_SECONDS, REQUEST_SECONDS, RETRY_SECONDS = 10.0, 30.0, 300.0, 240.0
THREADS = 16
PAGE = 1000  # objects in one response to a listing
READ_AHEAD_BYTES = 256 << 10
# Transfers hold part x concurrency in memory. A part has to be sent within READ_SECONDS: 8 MiB need 2.2 Mbit/s.
PART_BYTES, CONCURRENT_PARTS, MAX_PARTS = 8 << 20, 8, 9_000
MAX_COPY_BYTES = 5 << 30  # S3 copies no larger object within the store
SETTINGS = {"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_"}


class ObjectStore:
    """The store of one bucket. Keys are names of objects, without a slash at either end."""

    def __init__(self, scheme: str, bucket: str) -> None:
        self._scheme, self._name = scheme, bucket

    def exists(self, key: str) -> bool:
        if key and self.find(key) is not None:
            return True
        return bool(self._request(key, lambda bucket: _first_page(bucket, key)))

    def find(self, key: str) -> Entry | None:
        try:
            return _entry(self._request(key, lambda bucket: obstore.head(bucket, key)), key.rpartition("/")[0])
        except FileNotFoundError:
            return None

    def read(self, key: str) -> tuple[bytes, str]:
        def get(bucket: Bucket) -> tuple[bytes, str]:
            result = obstore.get(bucket, key)
            return result.bytes().to_bytes(), self._version(result.meta)

        return self._request(key, get)

    def open(self, key: str) -> pa.NativeFile:
        entry = self._existing(key)
        reader = RangeReader(lambda start, stop: self._read_range(key, entry, start, stop), entry.bytes)
        return pa.PythonFile(io.BufferedReader(reader, READ_AHEAD_BYTES), mode="r")

    def write(self, key: str, data: bytes) -> None:
        self._put(key, lambda _: data, len(data))

    def write_if(self, key: str, data: bytes, version: str | None) -> str | None:
        # Google's store compares generations, the others ETags.
        mode: PutMode = "create"
        if version is not None:
            mode = {"version": version} if self._scheme == "gs" else {"e_tag": version}

        def put(bucket: Bucket) -> str | None:
            try:
                return self._version(obstore.put(bucket, key, data, mode=mode))
            except (AlreadyExistsError, PreconditionError):
                return None
            except FileNotFoundError as error:  # S3's response where the object of an update does not exist
                if is_missing_bucket(error):
                    raise
                return None

        return self._request(key, put)

    def upload(self, source: Path, key: str) -> None:
        self._put(key, lambda _: source, source.stat().st_size)

    def download(self, key: str, target: Path) -> None:
        entry = self._existing(key)
        with temporary_file(target) as temporary, temporary.open("wb") as out:

            def copy_part(start: int) -> None:
                data = self._read_range(key, entry, start, min(start + PART_BYTES, entry.bytes))
                os.pwrite(out.fileno(), data, start)

            with ThreadPoolExecutor(CONCURRENT_PARTS) as threads:
                list(threads.map(copy_part, range(0, entry.bytes, PART_BYTES)))
            os.replace(temporary, target)

    def list_files(self, key: str) -> list[Entry]:
        # Web consoles create an empty object with the folder's own path.
        return [_entry(meta, key) for meta in self._list(key) if meta["path"] != key]

    def list_folders(self, key: str) -> list[str]:
        return [folder.rpartition("/")[2] for folder in self._list_folder(key)[1]]

    def delete_file(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._request(key, lambda bucket: obstore.delete(bucket, key))

    def delete_folder(self, key: str) -> None:
        paths = [meta["path"] for meta in self._list(key)]
        try:
            self._request(key, lambda bucket: obstore.delete(bucket, paths))
        except FileNotFoundError:  # another process deleted one of them, and this store reports missing objects
            with ThreadPoolExecutor(THREADS) as threads:
                list(threads.map(self.delete_file, paths))

    def move_folder(self, source: str, target: str) -> None:
        def copy(meta: "ObjectMeta") -> None:
            old, new = meta["path"], f"{target}{meta['path'].removeprefix(source)}"
            if meta["size"] <= MAX_COPY_BYTES:
                self._request(old, lambda bucket: obstore.copy(bucket, old, new))
            else:
                self._put(new, lambda bucket: obstore.get(bucket, old).stream(), meta["size"])

        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(copy, self._list(source)))
        self.delete_folder(source)

    def _existing(self, key: str) -> Entry:
        entry = self.find(key)
        if entry is None:
            raise FileNotFoundError(self._uri(key))
        return entry

    def _read_range(self, key: str, entry: Entry, start: int, stop: int) -> memoryview:
        options: GetOptions = {"range": (start, stop), "if_match": entry.version or None}
        return self._request(key, lambda bucket: memoryview(obstore.get(bucket, key, options=options).bytes()))

    def _put(self, key: str, content: "Callable[[Bucket], bytes | Path | Iterable[bytes]]", size: int) -> None:
        part = max(PART_BYTES, -(-size // MAX_PARTS))
        self._request(
            key,
            lambda bucket: obstore.put(bucket, key, content(bucket), chunk_size=part, max_concurrency=CONCURRENT_PARTS),
        )

    def _list(self, folder: str) -> "list[ObjectMeta]":
        """All objects below a folder: by one request if a page holds them, else level by level, concurrently."""
        first = self._request(folder, lambda bucket: _first_page(bucket, folder))
        if len(first) < PAGE:
            return first
        objects: list[ObjectMeta] = []
        level = [folder]
        with ThreadPoolExecutor(THREADS) as threads:
            while level:
                listed = list(threads.map(self._list_folder, level))
                objects += [meta for found, _ in listed for meta in found]
                level = [name for _, folders in listed for name in folders]
        return objects

    def _list_folder(self, folder: str) -> "tuple[Sequence[ObjectMeta], Sequence[str]]":
        listed = self._request(folder, lambda bucket: obstore.list_with_delimiter(bucket, folder or None))
        return listed["objects"], listed["common_prefixes"]

    def _version(self, result: "ObjectMeta | PutResult") -> str:
        return (result["version"] if self._scheme == "gs" else result["e_tag"]) or ""

    def _request(self, key: str, call: Callable[[Bucket], T]) -> T:
        """Result of a request, repeated after failures that obstore does not repeat: interrupted responses, for one."""
        uri, deadline = self._uri(key), time.monotonic() + RETRY_SECONDS
        bucket = open_bucket(self._scheme, self._name, uri)
        for attempt in itertools.count(1):
            try:
                return call(bucket)
            except (FileNotFoundError, ValueError, BaseError) as error:
                if attempt >= ATTEMPTS or time.monotonic() > deadline or not is_repeatable(error):
                    raise translate(error, uri) from None  # not chained: the message may contain a credential
            time.sleep(random.uniform(0.05, min(10, 0.1 * 2**attempt)))
        raise AssertionError

    def _uri(self, key: str) -> str:
        return f"{self._scheme}://{self._name}/{key}"


def open_bucket(scheme: str, name: str, uri: str) -> Bucket:
    """The client of a bucket for the environment of this process; threads share it."""
    settings = tuple(item for item in os.environ.items() if item[0].startswith(SETTINGS[scheme]))
    if scheme == "s3" and ("AWS_ACCESS_KEY_ID", "") in settings:
        raise StorageError(f"{uri}: AWS_ACCESS_KEY_ID is empty; set {CREDENTIALS[scheme]}")
    try:
        return _client(scheme, name, settings, ATTEMPTS, READ_SECONDS)
    except (BaseError, ValueError):  # not chained: the message may contain a credential
        raise StorageError(f"{uri}: invalid or missing settings; set {CREDENTIALS[scheme]}") from None


@lru_cache(maxsize=16)
def _client(
    scheme: str, name: str, settings: tuple[tuple[str, str], ...], attempts: int, read_seconds: float
) -> Bucket:
    environment = dict(settings)
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
        "read_timeout": timedelta(seconds=read_seconds),
        "timeout": timedelta(seconds=REQUEST_SECONDS),
        "allow_http": any("http://" in value for value in environment.values()),
    }
    retry: RetryConfig = {
        "max_retries": attempts - 1,
        "retry_timeout": timedelta(seconds=RETRY_SECONDS),
        "backoff": {"max_backoff": timedelta(seconds=10)},
    }
    if scheme == "az":
        return AzureStore(name, client_options=client, retry_config=retry)
    if scheme == "gs":
        return GCSStore(name, client_options=client, retry_config=retry)
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    options: S3Config = {"endpoint": endpoint} if endpoint else {}
    credentials = (
        None if "AWS_ACCESS_KEY_ID" in environment else _credentials_of_profile(environment.get("AWS_PROFILE"))
    )
    return S3Store(name, config=options, client_options=client, retry_config=retry, credential_provider=credentials)


def _credentials_of_profile(profile: str | None) -> "Boto3CredentialProvider | None":
    """Credentials in the config files of AWS, which only boto3 reads; None if there are no such files."""
    if profile is None and not any((Path.home() / ".aws" / name).exists() for name in ("config", "credentials")):
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider

        return Boto3CredentialProvider()
    except ImportError as error:
        raise ConfigError("profiles of AWS need boto3; pip install 's2l_ray[aws]', or set AWS_ACCESS_KEY_ID") from error
    except Exception as error:  # botocore's exceptions share no base class with a missing credential
        raise ConfigError(f"AWS_PROFILE={profile or 'default'}: {error}; correct ~/.aws/config") from error


def _first_page(bucket: Bucket, folder: str) -> "list[ObjectMeta]":
    return list(next(obstore.list(bucket, folder or None, chunk_size=PAGE), []))


def _entry(meta: "ObjectMeta", folder: str) -> Entry:
    """Entry of an object, with the path relative to a folder. Times are in seconds: not every response has more."""
    path = meta["path"].removeprefix(f"{folder}/") if folder else meta["path"]
    return Entry(path, meta["size"], int(meta["last_modified"].timestamp()) * 1_000_000_000, meta["e_tag"] or "")


class RangeReader(io.RawIOBase):
    """A seekable file over an object of `size` bytes; every read is one call of `read_range(start, stop)`."""

    def __init__(self, read_range: Callable[[int, int], memoryview], size: int) -> None:
        self._read_range, self._size, self._position = read_range, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        stop = min(self._position + len(buffer), self._size)
        if stop <= self._position:
            return 0
        data = self._read_range(self._position, stop)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
