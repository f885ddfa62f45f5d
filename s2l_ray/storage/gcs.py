"""A bucket of Google Cloud Storage, through Google's own client.

In: the bucket's name; credentials and project from the environment's usual places. Out: the operations of
`stores.Store`. The version of an object is its generation. The client checks every body against its checksum and
retries; one client a process.
"""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from s2l_ray.errors import ConfigError, StorageError
from s2l_ray.storage.store import (
    CONNECT_SECONDS,
    READ_SECONDS,
    THREADS,
    Entry,
    Page,
    list_in_parallel,
    open_ranges,
)

RETRY_SECONDS = 180.0
LISTED = "items(name,size,updated,generation),prefixes,nextPageToken"
REMEDIES = {
    401: "the credentials are refused; renew them with `gcloud auth application-default login`, or give it a role",
    403: "access denied; the credentials need the role Storage Object User for that bucket",
    412: "the object was replaced while it was read; run again",
}


class GoogleStore:
    """The store of one bucket."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket

    def exists(self, key: str) -> bool:
        if key and self.find(key) is not None:
            return True
        with _telling(self._uri(key)):
            prefix = f"{key}/" if key else ""
            return any(True for _ in _client().list_blobs(self._bucket, prefix=prefix, max_results=1, **_patience()))

    def find(self, key: str) -> Entry | None:
        with _telling(self._uri(key)):
            blob = _client().bucket(self._bucket).get_blob(key, **_patience())
        return None if blob is None else _entry(blob, key.rpartition("/")[2])

    def read(self, key: str) -> tuple[bytes, str]:
        with _telling(self._uri(key)):
            blob = self._blob(key)
            return blob.download_as_bytes(raw_download=True, **_patience()), str(blob.generation)

    def open(self, key: str) -> pa.NativeFile:
        entry = self.find(key)
        if entry is None:
            raise FileNotFoundError(self._uri(key))

        def read_range(start: int, stop: int) -> bytes:
            with _telling(self._uri(key)):
                options = {"if_generation_match": int(entry.version), "raw_download": True, **_patience()}
                data: bytes = self._blob(key).download_as_bytes(start=start, end=stop - 1, **options)
            return data

        return open_ranges(read_range, entry.bytes)

    def write(self, key: str, data: bytes) -> None:
        with _telling(self._uri(key)):
            self._blob(key).upload_from_string(data, content_type="application/octet-stream", **_patience())

    def write_if(self, key: str, data: bytes, version: str | None) -> str | None:
        from google.api_core.exceptions import PreconditionFailed

        with _telling(self._uri(key)):
            blob = self._blob(key)
            options = {"content_type": "application/octet-stream", **_patience()}
            try:
                blob.upload_from_string(data, if_generation_match=int(version or 0), **options)
            except PreconditionFailed:
                return None
            return str(blob.generation)

    def upload(self, source: Path, key: str) -> None:
        with _telling(self._uri(key)):
            self._blob(key).upload_from_filename(str(source), **_patience())

    def download(self, key: str, target: Path) -> None:
        with _telling(self._uri(key)):
            self._blob(key).download_to_filename(str(target), raw_download=True, **_patience())

    def list_files(self, key: str) -> list[Entry]:
        prefix = f"{key}/" if key else ""
        return [
            Entry(one.path.removeprefix(prefix), one.bytes, one.mtime_ns, one.version)
            for one in self._all(prefix)
            if not one.path.endswith("/")
        ]

    def list_folders(self, key: str) -> list[str]:
        prefix = f"{key}/" if key else ""
        with _telling(self._uri(key)):
            return [name[len(prefix) : -1] for _, folders in self._pages(prefix, False) for name in folders]

    def delete_file(self, key: str) -> None:
        from google.api_core.exceptions import NotFound

        with _telling(self._uri(key)):
            try:
                self._blob(key).delete(**_patience())
            except NotFound as error:
                if _lacks_bucket(error):
                    raise

    def delete_folder(self, key: str) -> None:
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(self.delete_file, [one.path for one in self._all(f"{key}/")]))

    def move_folder(self, source: str, target: str) -> None:
        with ThreadPoolExecutor(THREADS) as threads:
            names = [one.path for one in self._all(f"{source}/")]
            list(threads.map(self._copy, names, [f"{target}/{name.removeprefix(f'{source}/')}" for name in names]))
        self.delete_folder(source)

    def list_broken_off(self, key: str) -> list[Entry]:
        return []  # an upload that broke off is forgotten there after a week, and takes no room that is paid for

    def delete_broken_off(self, key: str, entry: Entry) -> None:
        raise ValueError(f"{entry.path}: nothing that broke off is ever listed here")

    def _copy(self, source: str, target: str) -> None:
        with _telling(self._uri(source)):
            copy, token = self._blob(target), ""
            while token is not None:
                token, _, _ = copy.rewrite(self._blob(source), token=token or None, **_patience())

    def _all(self, prefix: str) -> list[Entry]:
        with _telling(self._uri(prefix)):
            return list_in_parallel(self._pages, prefix)

    def _pages(self, prefix: str, flat: bool) -> Iterator[Page]:
        options = {"fields": LISTED, **_patience()}
        listing = _client().list_blobs(self._bucket, prefix=prefix, delimiter=None if flat else "/", **options)
        seen: set[str] = set()
        for page in listing.pages:
            entries = [_entry(blob, blob.name) for blob in page]
            yield entries, sorted(listing.prefixes - seen)
            seen |= listing.prefixes

    def _blob(self, key: str) -> Any:
        return _client().bucket(self._bucket).blob(key)

    def _uri(self, key: str) -> str:
        return f"gs://{self._bucket}/{key}"


_making = threading.Lock()


def _client() -> Any:
    settings = tuple(item for item in os.environ.items() if item[0].startswith(("GOOGLE_", "STORAGE_")))
    with _making:
        return _client_of(os.getpid(), settings)


@lru_cache(maxsize=1)
def _client_of(process: int, settings: tuple[tuple[str, str], ...]) -> Any:
    try:
        from google.cloud.storage import Client
    except ImportError as error:
        raise ConfigError("gs:// needs the package google-cloud-storage; pip install 's2l_ray[gs]'") from error
    return Client(project="any")  # which only buckets belong to


def _patience() -> dict[str, Any]:
    """Timeouts, and retries for all that is put, since every object is put whole and again with the same bytes."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    return {"timeout": (CONNECT_SECONDS, READ_SECONDS), "retry": DEFAULT_RETRY.with_timeout(RETRY_SECONDS)}


@contextmanager
def _telling(uri: str) -> Iterator[None]:
    """Failures of the block as `FileNotFoundError`, or as a `StorageError` with the place and the remedy."""
    try:
        from google.api_core.exceptions import GoogleAPICallError, NotFound
        from google.auth.exceptions import GoogleAuthError, TransportError
        from requests.exceptions import RequestException
    except ImportError as error:
        raise ConfigError("gs:// needs the package google-cloud-storage; pip install 's2l_ray[gs]'") from error
    try:
        yield
    except NotFound as error:
        if _lacks_bucket(error):
            raise StorageError(f"{uri}: there is no such bucket; create it, or correct the place") from error
        raise FileNotFoundError(uri) from error
    except GoogleAPICallError as error:
        if error.code is not None and error.code < 500:
            raise StorageError(f"{uri}: {REMEDIES.get(error.code) or error.message}") from error
        raise StorageError(
            f"{uri}: the store answered {error.code} for {RETRY_SECONDS:g} s; what is finished stays: run again later"
        ) from error
    except (RequestException, TransportError, ConnectionError, TimeoutError) as error:
        name = type(error).__name__
        raise StorageError(f"{uri}: no whole answer in {RETRY_SECONDS:g} s ({name}); check the network") from None
    except GoogleAuthError as error:
        raise StorageError(
            f"{uri}: no credentials ({type(error).__name__}); set GOOGLE_APPLICATION_CREDENTIALS, or give it a role"
        ) from None


def _lacks_bucket(error: Any) -> bool:
    return "bucket" in str(error.message).lower() and "object" not in str(error.message).lower()


def _entry(blob: Any, path: str) -> Entry:
    return Entry(path, int(blob.size), int(blob.updated.timestamp() * 1e6) * 1_000, str(blob.generation))
