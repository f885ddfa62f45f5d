"""The store of local and shared file systems.

Files are written under a temporary name, which begins with a dot, and then renamed. `file_lock` makes a multi-step
update atomic across processes, and across hosts where the file system supports `flock`.
"""

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa


@dataclass(frozen=True)
class Entry:
    """One file of a listing: path relative to the listed folder, size in bytes, modification time.

    version: the ETag of an object, which differs for every content; "" on a disk.
    """

    path: str
    bytes: int
    mtime_ns: int
    version: str = ""


class DiskStore:
    """The store of all local paths."""

    def exists(self, key: str) -> bool:
        return os.path.exists(key)

    def find(self, key: str) -> Entry | None:
        path = Path(key)
        return _entry(path.stat(), path.name) if path.is_file() else None

    def read(self, key: str) -> tuple[bytes, str]:
        with open(key, "rb") as stream:
            version = _version(os.fstat(stream.fileno()))
            return stream.read(), version

    def open(self, key: str) -> pa.NativeFile:
        return pa.OSFile(key)

    def write(self, key: str, data: bytes) -> None:
        with temporary_file(Path(key)) as temporary:
            temporary.write_bytes(data)
            os.replace(temporary, key)

    def write_if(self, key: str, data: bytes, version: str | None) -> str | None:
        target = Path(key)
        if version is not None and not target.exists():
            return None  # without creating its folder again
        with temporary_file(target) as temporary, file_lock(target.parent / f".{target.name}.lock"):
            temporary.write_bytes(data)
            written = _version(temporary.stat())
            if version is None:
                return written if _link(temporary, target) else None
            with contextlib.suppress(FileNotFoundError):
                if _version(target.stat()) == version:
                    os.replace(temporary, target)
                    return written
        return None

    def upload(self, source: Path, key: str) -> None:
        with temporary_file(Path(key)) as temporary:
            shutil.copyfile(source, temporary)
            os.replace(temporary, key)

    def download(self, key: str, target: Path) -> None:
        self.upload(Path(key), str(target))

    def list_files(self, key: str) -> list[Entry]:
        """Files below a folder, except those that are deleted during the listing."""
        entries = []
        for path, item in _items_below(Path(key)):
            with contextlib.suppress(FileNotFoundError):
                if _is_file(item):
                    entries.append(_entry(item.stat(), path))
        return entries

    def list_broken_links(self, key: str) -> list[str]:
        """Paths of symbolic links below a folder that are not followed: to nothing, or to a folder above them."""
        return [path for path, item in _items_below(Path(key)) if item.is_symlink() and not _is_file(item)]

    def list_folders(self, key: str) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return [entry.name for entry in os.scandir(key) if entry.is_dir()]
        return []

    def delete_file(self, key: str) -> None:
        Path(key).unlink(missing_ok=True)

    def delete_folder(self, key: str) -> None:
        while os.path.isdir(key):
            with contextlib.suppress(FileNotFoundError):  # of an entry that another process deleted
                shutil.rmtree(key)

    def move_folder(self, source: str, target: str) -> None:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        os.rename(source, target)


@contextlib.contextmanager
def file_lock(path: Path, shared: bool = False, blocking: bool = True) -> Iterator[None]:
    """Hold an exclusive or `shared` lock on the file `path` while the block runs.

    The lock ends with the process that holds it; an exclusive holder deletes the file. Raises `BlockingIOError` if
    another process holds the lock and `blocking` is False.
    """
    mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if blocking else fcntl.LOCK_NB)
    descriptor = _open_locked(path, mode)
    try:
        yield
    finally:
        if not shared:
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _open_locked(path: Path, mode: int) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, mode)
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the previous holder deleted this file; other processes lock its successor


def _link(temporary: Path, target: Path) -> bool:
    try:
        os.link(temporary, target)  # atomic, and fails if the name exists
    except FileExistsError:
        return False
    return True


@contextlib.contextmanager
def temporary_file(target: Path) -> Iterator[Path]:
    """Path beside `target` under which its content is written; the file is deleted if it still exists at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _version(status: os.stat_result) -> str:
    return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"


def _entry(status: os.stat_result, path: str) -> Entry:
    return Entry(path, status.st_size, status.st_mtime_ns)


def _items_below(
    folder: Path, prefix: str = "", above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Path and item of everything below a folder but its folders; links to a folder in `above` are not followed."""
    with contextlib.suppress(FileNotFoundError):
        above |= {_identity(folder)}
    for item in _scan(folder):
        if _is_folder(item) and not (item.is_symlink() and _identity(item) in above):
            yield from _items_below(Path(item.path), f"{prefix}{item.name}/", above)
        else:
            yield f"{prefix}{item.name}", item


def _identity(folder: Path | os.DirEntry[str]) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_folder(item: os.DirEntry[str]) -> bool:
    with contextlib.suppress(OSError):  # of a link to itself
        return item.is_dir()
    return False


def _is_file(item: os.DirEntry[str]) -> bool:
    with contextlib.suppress(OSError):
        return item.is_file()
    return False


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return list(os.scandir(folder))
    return []
