"""Files on local paths and in s3://, gs:// and az:// buckets, behind one set of functions.

Writes are atomic: a reader sees the old file, the new file or none. Names that begin with a dot are temporary and never
listed. Endpoint, region and credentials come from the environment, never from a job file. Failures are
`FileNotFoundError`, or an `S2LError` with the URI and a hint; no message contains a credential.
"""

import contextlib
import hashlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pyarrow as pa
from pyarrow import fs

from s2l_ray.errors import ConfigError, StorageError
from s2l_ray.storage.disk import DiskStore, temporary_file
from s2l_ray.storage.disk import Entry as Entry

if TYPE_CHECKING:
    from s2l_ray.storage.object_store import ObjectStore

COPY_BYTES = 8 << 20
DISK = DiskStore()
_CHECKED: set[str] = set()  # buckets whose conditional writes were checked
SCHEMES = ("s3", "gs", "az")


def join(root: str, *parts: str) -> str:
    """Append path parts to a URI or a path."""
    if is_local(root):
        folder = root.removeprefix("file://")
        return "/".join([folder.rstrip("/") or "/", *parts]).replace("//", "/")
    return "/".join([root.rstrip("/"), *parts])


def is_local(uri: str) -> bool:
    """Whether the URI is a path on this machine."""
    return "://" not in uri or uri.startswith("file://")


def absolute(uri: str) -> str:
    """The URI with a relative path resolved against the working directory of this process."""
    return str(local_path(uri).expanduser().absolute()) if is_local(uri) else uri


def local_path(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def _resolve(uri: str) -> "tuple[DiskStore | ObjectStore, str]":
    """Store and key of a URI. Raises `ConfigError` for an unknown scheme."""
    if is_local(uri):
        return DISK, str(local_path(uri).absolute())
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if "@" in bucket or "sig=" in rest:
        raise ConfigError(f"{scheme}://...: credentials belong in the environment; remove them from the URI")
    if scheme not in SCHEMES or not bucket:
        raise ConfigError(f"{uri}: unknown scheme; write a local path, or s3://, gs:// or az:// with bucket/path")
    from s2l_ray.storage.object_store import ObjectStore

    return ObjectStore(scheme, bucket), key.strip("/")


def exists(uri: str) -> bool:
    """Whether the URI is a file or a folder."""
    store, key = _resolve(uri)
    return store.exists(key)


def find(uri: str) -> Entry | None:
    """Entry of a file, with its base name as path, or None."""
    store, key = _resolve(uri)
    return store.find(key)


def size(uri: str) -> int:
    """Size of a file in bytes. Raises `FileNotFoundError`."""
    entry = find(uri)
    if entry is None:
        raise FileNotFoundError(uri)
    return entry.bytes


def open_input(uri: str) -> pa.NativeFile:
    """Open a file for random access. Raises `FileNotFoundError`."""
    store, key = _resolve(uri)
    return store.open(key)


def read_bytes(uri: str) -> bytes:
    """Content of a file. Raises `FileNotFoundError`."""
    return read_version(uri)[0]


def read_version(uri: str) -> tuple[bytes, str]:
    """Content and version of a file, for `write_if`. Raises `FileNotFoundError`."""
    store, key = _resolve(uri)
    return store.read(key)


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file atomically, replacing an existing one."""
    store, key = _resolve(uri)
    store.write(key, data)


def write_if(uri: str, data: bytes, version: str | None) -> str | None:
    """Write a file if its current version is `version` (None: if it does not exist); return the new version.

    Exactly one of several concurrent writers succeeds; the others get None. `data` must be unique to the writer: after
    a lost response, the stored content shows whether its own write succeeded.
    """
    store, key = _resolve(uri)
    written = store.write_if(key, data, version)
    if written is not None:
        return written
    try:
        stored, current = store.read(key)
    except FileNotFoundError:
        return None
    return current if stored == data else None


def check_conditional_writes(folder: str) -> None:
    """Raise `StorageError` if the store of a folder ignores the conditions of `write_if`; checked once per process."""
    bucket = "/".join(folder.split("/", 3)[:3])
    if is_local(folder) or bucket in _CHECKED:
        return
    token = uuid.uuid4().hex
    uri = join(folder, f".check-{token}")
    try:
        first = write_if(uri, f"1 {token}".encode(), None)
        again = write_if(uri, f"2 {token}".encode(), None)
        second = first and write_if(uri, f"3 {token}".encode(), first)
        stale = first and write_if(uri, f"4 {token}".encode(), first)
    finally:
        delete_file(uri)
    if not second or again or stale:
        raise StorageError(
            f"{folder}: this store does not support conditional writes, so two drivers could build one artifact; use a "
            "store that supports If-Match and If-None-Match"
        )
    _CHECKED.add(bucket)


def put_file(source: Path, uri: str) -> None:
    """Write a local file to a URI atomically, streamed."""
    store, key = _resolve(uri)
    store.upload(source, key)


@contextlib.contextmanager
def output_file(uri: str) -> Iterator[Path]:
    """A local path whose file is put at the URI, whole, when the block ends without an exception."""
    if is_local(uri):
        target = local_path(uri)
        with temporary_file(target) as temporary:
            yield temporary
            os.replace(temporary, target)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        yield path
        put_file(path, uri)


def get_file(uri: str, target: Path) -> None:
    """Copy a file to a local path, streamed. Raises `FileNotFoundError`."""
    store, key = _resolve(uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    store.download(key, target)


def list_files(uri: str) -> list[Entry]:
    """All files below a folder, sorted by path; empty if the folder does not exist."""
    store, key = _resolve(uri)
    visible = (entry for entry in store.list_files(key) if not _is_temporary(entry.path))
    return sorted(visible, key=lambda entry: entry.path)


def list_folders(uri: str) -> list[str]:
    """Names of the folders directly below a folder, sorted."""
    store, key = _resolve(uri)
    return sorted(store.list_folders(key))


def delete_file(uri: str) -> None:
    """Delete a file, if it exists."""
    store, key = _resolve(uri)
    store.delete_file(key)


def delete_folder(uri: str) -> None:
    """Delete a folder and everything below it, if it exists."""
    store, key = _resolve(uri)
    store.delete_folder(key)


def move_folder(source: str, target: str) -> None:
    """Rename a folder within one store (copied file by file in a bucket)."""
    store, source_key = _resolve(source)
    store.move_folder(source_key, _resolve(target)[1])


def list_broken_links(uri: str) -> list[str]:
    """Paths of symbolic links below a folder to nothing or to a folder above them, which are not listed as files."""
    return sorted(DISK.list_broken_links(str(local_path(uri).absolute()))) if is_local(uri) else []


def list_temporary_files(uri: str) -> list[Entry]:
    """Temporary files below a folder on a disk, also of writes in progress; empty for a bucket.

    A bucket deletes the parts of incomplete uploads by itself if it has a lifecycle rule for them.
    """
    store, key = _resolve(uri)
    return [entry for entry in store.list_files(key) if _is_temporary(entry.path)] if is_local(uri) else []


def _is_temporary(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def sha256_file(uri: str) -> str:
    """sha256 of a file in hexadecimal, computed in pieces of constant size."""
    digest = hashlib.sha256()
    with open_input(uri) as stream:
        while piece := cast(bytes, stream.read(COPY_BYTES)):
            digest.update(piece)
    return digest.hexdigest()


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """Arrow file system and path of a URI, for libraries that take those, such as Ray Train."""
    _, key = _resolve(uri)
    if is_local(uri):
        return fs.LocalFileSystem(), key
    from s2l_ray.storage.arrow import BucketFileSystem

    scheme, _, path = uri.partition("://")
    return fs.PyFileSystem(fs.FSSpecHandler(BucketFileSystem(scheme))), path.rstrip("/")
