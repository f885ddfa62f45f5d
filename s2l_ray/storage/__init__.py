"""Files in storage: one set of functions for a local path and for s3:// and gs:// URIs.

In: URIs (a plain path is a local one). Out: bytes, files, listings. A file is always put whole, so a reader sees the
old one, the new one or none. Names that begin with a dot are temporary and never listed. Endpoint, region and
credentials come from the environment's usual places, never from a job file. What a store refuses is an `S2LError` that
names the place and the remedy.
"""

import hashlib
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import cast

import pyarrow as pa
from pyarrow import fs

from s2l_ray.errors import ConfigError
from s2l_ray.storage.disk import DiskStore
from s2l_ray.storage.store import Entry as Entry
from s2l_ray.storage.store import Store, is_temporary

COPY_BYTES = 8 << 20
COPIES_AT_ONCE = 16
DISK = DiskStore()


def join(root: str, *parts: str) -> str:
    """Append path parts to a URI or a path."""
    if is_local(root):
        return "/".join([root.rstrip("/") or "/", *parts]).replace("//", "/")
    return "/".join([root.rstrip("/"), *parts])


def is_local(uri: str) -> bool:
    """Whether the URI is a path on this machine."""
    return "://" not in uri or uri.startswith("file://")


def absolute(uri: str) -> str:
    """The URI as every process finds it: a relative path is taken from where this one runs."""
    return str(local_path(uri).expanduser().absolute()) if is_local(uri) else uri


def local_path(uri: str) -> Path:
    """The path of a local URI."""
    return Path(uri.removeprefix("file://"))


def _located(uri: str) -> tuple[Store, str]:
    """The store of a URI and the key inside it. Raises `ConfigError` for a scheme that is not known."""
    if is_local(uri):
        return DISK, str(local_path(uri).absolute())
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if "@" in bucket:
        raise ConfigError(f"{scheme}://...@...: credentials stand in the environment, never in a place; take them out")
    if scheme == "s3" and bucket:
        from s2l_ray.storage.s3 import S3Store

        return S3Store(bucket), key.rstrip("/")
    if scheme == "gs" and bucket:
        from s2l_ray.storage.gcs import GoogleStore

        return GoogleStore(bucket), key.rstrip("/")
    raise ConfigError(f"{uri}: no such storage; write a local path, s3://bucket/path or gs://bucket/path")


def exists(uri: str) -> bool:
    """Whether a file or folder stands there."""
    store, key = _located(uri)
    return store.exists(key)


def find(uri: str) -> Entry | None:
    """The file there, under its own name, or None."""
    store, key = _located(uri)
    return store.find(key)


def size(uri: str) -> int:
    """Size of a file in bytes. Raises `FileNotFoundError`."""
    entry = find(uri)
    if entry is None:
        raise FileNotFoundError(uri)
    return entry.bytes


def open_input(uri: str) -> pa.NativeFile:
    """A file open for reading at any position. Raises `FileNotFoundError`."""
    store, key = _located(uri)
    return store.open(key)


def read_bytes(uri: str) -> bytes:
    """The whole file. Raises `FileNotFoundError`."""
    return read_version(uri)[0]


def read_version(uri: str) -> tuple[bytes, str]:
    """The whole file and its version, for `write_if`. Raises `FileNotFoundError`."""
    store, key = _located(uri)
    return store.read(key)


def write_bytes(uri: str, data: bytes) -> None:
    """Put a whole file; an older one of that name is replaced."""
    store, key = _located(uri)
    store.write(key, data)


def write_if(uri: str, data: bytes, version: str | None) -> str | None:
    """Put a file where exactly that version stands (None: where none does), and give the new version.

    Of many at once one succeeds, the others get None. `data` has to be the writer's own: where the answer to a request
    was lost, the one that stands there says who wrote it.
    """
    store, key = _located(uri)
    written = store.write_if(key, data, version)
    if written is not None:
        return written
    try:
        stands, current = store.read(key)
    except FileNotFoundError:
        return None
    return current if stands == data else None


def put_file(source: Path, uri: str) -> None:
    """Put a local file whole, streamed."""
    store, key = _located(uri)
    store.upload(source, key)


def get_file(uri: str, target: Path) -> None:
    """Copy a file to a local path, streamed. Raises `FileNotFoundError`."""
    store, key = _located(uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    store.download(key, target)


def list_files(uri: str) -> list[Entry]:
    """All files below a folder, by path; none where the folder is missing."""
    store, key = _located(uri)
    visible = (entry for entry in store.list_files(key) if not is_temporary(entry.path))
    return sorted(visible, key=lambda entry: entry.path)


def list_folders(uri: str) -> list[str]:
    """Names of the folders directly below a folder, sorted."""
    store, key = _located(uri)
    return sorted(store.list_folders(key))


def delete_file(uri: str) -> None:
    """Remove a file; none there is no error."""
    store, key = _located(uri)
    store.delete_file(key)


def delete_folder(uri: str) -> None:
    """Remove a folder and all below it; none there is no error."""
    store, key = _located(uri)
    store.delete_folder(key)


def move_folder(source: str, target: str) -> None:
    """Move a folder inside one store (copied file by file where the store cannot rename)."""
    store, source_key = _located(source)
    store.move_folder(source_key, _located(target)[1])


def copy_missing(source: str, target: str, besides: Collection[str] = ()) -> None:
    """Copy the files below a folder that the other has not, in any order, through this machine: small files only."""
    there = {entry.path for entry in list_files(target)}.union(besides)
    wanted = [entry.path for entry in list_files(source) if entry.path not in there]
    with ThreadPoolExecutor(COPIES_AT_ONCE) as threads:
        list(threads.map(lambda path: write_bytes(join(target, path), read_bytes(join(source, path))), wanted))


def list_broken_off(uri: str) -> list[Entry]:
    """Files below a folder that are on their way; an old one's writer is gone, and nobody will ever see the file."""
    store, key = _located(uri)
    return store.list_broken_off(key)


def delete_broken_off(uri: str, entry: Entry) -> None:
    """Remove what `list_broken_off` listed of that folder."""
    store, key = _located(uri)
    store.delete_broken_off(key, entry)


def sha256_file(uri: str) -> str:
    """sha256 of a file, as hex digits; read in pieces."""
    digest = hashlib.sha256()
    with open_input(uri) as stream:
        while piece := cast(bytes, stream.read(COPY_BYTES)):
            digest.update(piece)
    return digest.hexdigest()


@lru_cache(maxsize=16)
def _bucket_filesystem(scheme: str) -> fs.FileSystem:
    if scheme == "s3":
        # Arrow's own default would ask a metadata service for the region of a bucket that an endpoint serves
        return fs.S3FileSystem(
            endpoint_override=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
            region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=8),
            connect_timeout=10,
            request_timeout=60,
        )
    return fs.GcsFileSystem()


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The same place for a library that takes an Arrow file system, such as Ray Train, and the path inside it."""
    _, key = _located(uri)
    if is_local(uri):
        return fs.LocalFileSystem(), key
    scheme, _, rest = uri.partition("://")
    return _bucket_filesystem(scheme), rest.rstrip("/")
