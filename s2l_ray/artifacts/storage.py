"""Files in storage: one set of functions for a local path and for s3:// and gs:// URIs, on `pyarrow.fs`.

In: URIs (a plain path is a local one). Out: bytes, files, listings. A file is always put whole: under a temporary name
that is then replaced on a disk, by one upload in an object store; so a reader sees the old file, the new one or none.
Names that begin with a dot are temporary and never listed. Endpoint, region and credentials come from the environment's
usual places, never from a job file.
"""

import hashlib
import os
import shutil
import tempfile
import uuid
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, cast

import pyarrow as pa
from pyarrow import fs

from s2l_ray.artifacts.errors import S2LError

COPY_BYTES = 8 << 20


@dataclass(frozen=True)
class Entry:
    """One file of a listing: its path relative to the listed folder, its size in bytes, its time of change."""

    path: str
    bytes: int
    mtime_ns: int


def join(root: str, *parts: str) -> str:
    """Append path parts to a URI or a path."""
    return (
        "/".join([root.rstrip("/") or "/", *parts]).replace("//", "/")
        if is_local(root)
        else "/".join([root.rstrip("/"), *parts])
    )


def is_local(uri: str) -> bool:
    """Whether the URI is a path on this machine."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> Path:
    """The path of a local URI."""
    return Path(uri.removeprefix("file://"))


@lru_cache(maxsize=16)
def _object_store(scheme_and_bucket: str) -> fs.FileSystem:
    if scheme_and_bucket.startswith("s3://"):
        # pyarrow's own default would ask a metadata service for the region of a bucket that an endpoint serves
        return fs.S3FileSystem(
            endpoint_override=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
            region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=8),
            connect_timeout=10,
            request_timeout=60,
        )
    return fs.FileSystem.from_uri(scheme_and_bucket)[0]


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URI and the path inside it. Raises `S2LError` for a scheme pyarrow does not know."""
    if is_local(uri):
        return fs.LocalFileSystem(), str(local_path(uri).absolute())
    scheme, _, rest = uri.partition("://")
    try:
        return _object_store(f"{scheme}://{rest.split('/', 1)[0]}"), rest.rstrip("/")
    except (pa.ArrowInvalid, ValueError) as error:
        raise S2LError(f"{uri}: {error}; write a local path, s3://bucket/path or gs://bucket/path") from error


def exists(uri: str) -> bool:
    """Whether a file or folder stands there."""
    system, path = filesystem(uri)
    return bool(system.get_file_info(path).type != fs.FileType.NotFound)


def size(uri: str) -> int:
    """Size of a file in bytes. Raises `FileNotFoundError`."""
    system, path = filesystem(uri)
    info = system.get_file_info(path)
    if info.type != fs.FileType.File:
        raise FileNotFoundError(uri)
    return int(info.size)


def open_input(uri: str) -> pa.NativeFile:
    """A file open for reading at any position."""
    system, path = filesystem(uri)
    return system.open_input_file(path)


def read_bytes(uri: str) -> bytes:
    """The whole file. Raises `FileNotFoundError`."""
    with open_input(uri) as stream:
        return cast(bytes, stream.read())


def write_bytes(uri: str, data: bytes) -> None:
    """Put a whole file; an older one of that name is replaced."""
    if is_local(uri):
        target = local_path(uri)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}"
        try:
            temporary.write_bytes(data)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        return
    system, path = filesystem(uri)
    with system.open_output_stream(path, compression=None) as stream:
        stream.write(data)


def put_file(source: Path, uri: str) -> None:
    """Put a local file whole, streamed."""
    if is_local(uri):
        target = local_path(uri)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}"
        try:
            shutil.copyfile(source, temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        return
    system, path = filesystem(uri)
    with source.open("rb") as reader, system.open_output_stream(path, compression=None) as writer:
        shutil.copyfileobj(reader, cast(IO[bytes], writer), COPY_BYTES)


def list_files(uri: str) -> list[Entry]:
    """All files below a folder, by path; none where the folder is missing."""
    system, path = filesystem(uri)
    selector = fs.FileSelector(path, recursive=True, allow_not_found=True)
    found = [info for info in system.get_file_info(selector) if info.type == fs.FileType.File]
    entries = [Entry(info.path[len(path) :].lstrip("/"), int(info.size), int(info.mtime_ns or 0)) for info in found]
    visible = (entry for entry in entries if not any(part.startswith(".") for part in entry.path.split("/")))
    return sorted(visible, key=lambda entry: entry.path)


def list_folders(uri: str) -> list[str]:
    """Names of the folders directly below a folder, sorted."""
    system, path = filesystem(uri)
    infos = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in infos if info.type == fs.FileType.Directory)


def delete_file(uri: str) -> None:
    """Remove a file; none there is no error."""
    if is_local(uri):
        local_path(uri).unlink(missing_ok=True)
        return
    system, path = filesystem(uri)
    if exists(uri):
        system.delete_file(path)


def delete_folder(uri: str) -> None:
    """Remove a folder and all below it; none there is no error."""
    if is_local(uri):
        shutil.rmtree(local_path(uri), ignore_errors=True)
        return
    system, path = filesystem(uri)
    if system.get_file_info(path).type == fs.FileType.Directory:
        system.delete_dir(path)


def move_folder(source: str, target: str) -> None:
    """Move a folder inside one store (copied file by file where the store cannot rename)."""
    if is_local(source):
        local_path(target).parent.mkdir(parents=True, exist_ok=True)
        os.replace(local_path(source), local_path(target))
        return
    system, source_path = filesystem(source)
    for entry in list_files(source):
        system.copy_file(f"{source_path}/{entry.path}", f"{filesystem(target)[1]}/{entry.path}")
    delete_folder(source)


def fetch_folder(uri: str, cache: Path | None = None) -> Path:
    """A local folder with the files below `uri`: the folder itself where it is local, else a copy under `cache`."""
    if is_local(uri):
        return local_path(uri)
    target = (cache or Path(tempfile.gettempdir()) / "s2l_ray") / hashlib.sha256(uri.encode()).hexdigest()[:16]
    for entry in list_files(uri):
        place = target / entry.path
        if not place.exists() or place.stat().st_size != entry.bytes:
            write_bytes(str(place), read_bytes(join(uri, entry.path)))
    return target


def create_exclusive(uri: str, data: bytes) -> bool:
    """Create the file and say True, or leave what stands there and say False; of many at once, one succeeds."""
    if is_local(uri):
        return _create_exclusive_on_disk(local_path(uri), data)
    if uri.startswith("s3://"):
        return _create_exclusive_on_s3(uri, data)
    raise S2LError(f"{uri}: no conditional creation for this store; use a local path or s3://")


def _create_exclusive_on_disk(target: Path, data: bytes) -> bool:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    temporary.write_bytes(data)
    try:
        os.link(temporary, target)  # fails where the name is taken, and shows no half-written file
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def _create_exclusive_on_s3(uri: str, data: bytes) -> bool:
    import boto3
    from botocore.exceptions import ClientError

    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412):
            return False
        raise
    return True


def sha256_file(uri: str) -> str:
    """sha256 of a file, as hex digits; read in pieces."""
    digest = hashlib.sha256()
    with open_input(uri) as stream:
        while piece := stream.read(COPY_BYTES):
            digest.update(piece)
    return digest.hexdigest()
