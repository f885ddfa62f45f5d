"""The store of a Google Cloud Storage bucket, through Google's client.

Credentials are those that the client finds. The version of an object is its generation. The client verifies
checksums and retries; there is one client per process.
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
    open_with_range_requests,
)

RETRY_SECONDS = 180.0
LISTED_FIELDS = "items(name,size,updated,generation),prefixes,nextPageToken"
HINTS = {
    401: "the credentials were rejected; renew them with `gcloud auth application-default login`",
    403: "access denied; the credentials need the role Storage Object User for that bucket",
    412: "the object was replaced while it was being read; run again",
}


class GCSStore:
    """The store of one bucket."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket

    def exists(self, key: str) -> bool:
        if key and self.find(key) is not None:
            return True
        with _translate_errors(self._uri(key)):
            prefix = f"{key}/" if key else ""
            return any(
                True for _ in _client().list_blobs(self._bucket, prefix=prefix, max_results=1, **_request_options())
            )

    def find(self, key: str) -> Entry | None:
        with _translate_errors(self._uri(key)):
            blob = _client().bucket(self._bucket).get_blob(key, **_request_options())
        return None if blob is None else _entry(blob, key.rpartition("/")[2])

    def read(self, key: str) -> tuple[bytes, str]:
        with _translate_errors(self._uri(key)):
            blob = self._blob(key)
            return blob.download_as_bytes(raw_download=True, **_request_options()), str(blob.generation)

    def open(self, key: str) -> pa.NativeFile:
        entry = self.find(key)
        if entry is None:
            raise FileNotFoundError(self._uri(key))

        def request_range(start: int, stop: int) -> bytes:
            with _translate_errors(self._uri(key)):
                options = {"if_generation_match": int(entry.version), "raw_download": True, **_request_options()}
                data: bytes = self._blob(key).download_as_bytes(start=start, end=stop - 1, **options)
            return data

        return open_with_range_requests(request_range, entry.bytes)

    def write(self, key: str, data: bytes) -> None:
        with _translate_errors(self._uri(key)):
            self._blob(key).upload_from_string(data, content_type="application/octet-stream", **_request_options())

    def write_if(self, key: str, data: bytes, version: str | None) -> str | None:
        from google.api_core.exceptions import PreconditionFailed

        with _translate_errors(self._uri(key)):
            blob = self._blob(key)
            options = {"content_type": "application/octet-stream", **_request_options()}
            try:
                blob.upload_from_string(data, if_generation_match=int(version or 0), **options)
            except PreconditionFailed:
                return None
            return str(blob.generation)

    def upload(self, source: Path, key: str) -> None:
        with _translate_errors(self._uri(key)):
            self._blob(key).upload_from_filename(str(source), **_request_options())

    def download(self, key: str, target: Path) -> None:
        with _translate_errors(self._uri(key)):
            self._blob(key).download_to_filename(str(target), raw_download=True, **_request_options())

    def list_files(self, key: str) -> list[Entry]:
        prefix = f"{key}/" if key else ""
        return [
            Entry(one.path.removeprefix(prefix), one.bytes, one.mtime_ns, one.version)
            for one in self._list_all(prefix)
            if not one.path.endswith("/")
        ]

    def list_folders(self, key: str) -> list[str]:
        prefix = f"{key}/" if key else ""
        with _translate_errors(self._uri(key)):
            return [name[len(prefix) : -1] for _, folders in self._list_pages(prefix, False) for name in folders]

    def delete_file(self, key: str) -> None:
        from google.api_core.exceptions import NotFound

        with _translate_errors(self._uri(key)):
            try:
                self._blob(key).delete(**_request_options())
            except NotFound as error:
                if _is_missing_bucket(error):
                    raise

    def delete_folder(self, key: str) -> None:
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(self.delete_file, [one.path for one in self._list_all(f"{key}/")]))

    def move_folder(self, source: str, target: str) -> None:
        with ThreadPoolExecutor(THREADS) as threads:
            names = [one.path for one in self._list_all(f"{source}/")]
            list(threads.map(self._copy, names, [f"{target}/{name.removeprefix(f'{source}/')}" for name in names]))
        self.delete_folder(source)

    def list_incomplete_uploads(self, key: str) -> list[Entry]:
        return []  # the service discards an incomplete upload after a week and does not charge for it

    def delete_incomplete_upload(self, key: str, entry: Entry) -> None:
        raise ValueError(f"{entry.path}: this store lists no incomplete uploads")

    def _copy(self, source: str, target: str) -> None:
        with _translate_errors(self._uri(source)):
            copy, token = self._blob(target), ""
            while token is not None:
                token, _, _ = copy.rewrite(self._blob(source), token=token or None, **_request_options())

    def _list_all(self, prefix: str) -> list[Entry]:
        with _translate_errors(self._uri(prefix)):
            return list_in_parallel(self._list_pages, prefix)

    def _list_pages(self, prefix: str, flat: bool) -> Iterator[Page]:
        options = {"fields": LISTED_FIELDS, **_request_options()}
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


_client_lock = threading.Lock()


def _client() -> Any:
    settings = tuple(item for item in os.environ.items() if item[0].startswith(("GOOGLE_", "STORAGE_")))
    with _client_lock:
        return _cached_client(os.getpid(), settings)


@lru_cache(maxsize=1)
def _cached_client(process: int, settings: tuple[tuple[str, str], ...]) -> Any:
    try:
        from google.cloud.storage import Client
    except ImportError as error:
        raise ConfigError("gs:// needs the package google-cloud-storage; pip install 's2l_ray[gs]'") from error
    return Client(project="any")  # only operations on buckets themselves use it


def _request_options() -> dict[str, Any]:
    """Timeouts, and retries also of writes: an object is written as a whole, so a repeated write is harmless."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    return {"timeout": (CONNECT_SECONDS, READ_SECONDS), "retry": DEFAULT_RETRY.with_timeout(RETRY_SECONDS)}


@contextmanager
def _translate_errors(uri: str) -> Iterator[None]:
    """Raise failures of the block as `FileNotFoundError`, or as `StorageError` with the URI and a hint."""
    try:
        from google.api_core.exceptions import GoogleAPICallError, NotFound
        from google.auth.exceptions import GoogleAuthError, TransportError
        from requests.exceptions import RequestException
    except ImportError as error:
        raise ConfigError("gs:// needs the package google-cloud-storage; pip install 's2l_ray[gs]'") from error
    try:
        yield
    except NotFound as error:
        if _is_missing_bucket(error):
            raise StorageError(f"{uri}: the bucket does not exist; create it, or correct its name") from error
        raise FileNotFoundError(uri) from error
    except GoogleAPICallError as error:
        if error.code is not None and error.code < 500:
            raise StorageError(f"{uri}: {HINTS.get(error.code) or error.message}") from error
        raise StorageError(
            f"{uri}: the store answered {error.code} for {RETRY_SECONDS:g} s; "
            "completed work is stored: run again later to resume"
        ) from error
    except (RequestException, TransportError, ConnectionError, TimeoutError) as error:
        name = type(error).__name__
        raise StorageError(f"{uri}: no complete response in {RETRY_SECONDS:g} s ({name}); check the network") from None
    except GoogleAuthError as error:
        raise StorageError(
            f"{uri}: no credentials ({type(error).__name__}); "
            "set GOOGLE_APPLICATION_CREDENTIALS, or attach a service account to this machine"
        ) from None


def _is_missing_bucket(error: Any) -> bool:
    return "bucket" in str(error.message).lower() and "object" not in str(error.message).lower()


def _entry(blob: Any, path: str) -> Entry:
    return Entry(path, int(blob.size), int(blob.updated.timestamp() * 1e6) * 1_000, str(blob.generation))
