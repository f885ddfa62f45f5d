"""Files on a disk of this machine, or one that several machines share.

In: absolute paths. Out: files that are put whole: under a temporary name (one that begins with a dot) that then takes
the other's place. `take_turns` is what makes several steps one for all processes, also across hosts where the file
system carries `flock`.
"""

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from s2l_ray.storage.store import Entry, is_temporary


class DiskStore:
    """The store of all local paths."""

    def exists(self, key: str) -> bool:
        return os.path.exists(key)

    def find(self, key: str) -> Entry | None:
        path = Path(key)
        return _entry(path, path.name) if path.is_file() else None

    def read(self, key: str) -> tuple[bytes, str]:
        with open(key, "rb") as stream:
            version = _version(os.fstat(stream.fileno()))
            return stream.read(), version

    def open(self, key: str) -> pa.NativeFile:
        return pa.OSFile(key)

    def write(self, key: str, data: bytes) -> None:
        with _temporary(Path(key)) as temporary:
            temporary.write_bytes(data)
            os.replace(temporary, key)

    def write_if(self, key: str, data: bytes, version: str | None) -> str | None:
        target = Path(key)
        if version is not None and not target.exists():
            return None  # and no folder for it is made anew
        with _temporary(target) as temporary, take_turns(target.parent / f".{target.name}.turn"):
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
        with _temporary(Path(key)) as temporary:
            shutil.copyfile(source, temporary)
            os.replace(temporary, key)

    def download(self, key: str, target: Path) -> None:
        self.upload(Path(key), str(target))

    def list_files(self, key: str) -> list[Entry]:
        root = Path(key)
        return list(_files_below(root, ""))

    def list_folders(self, key: str) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return [entry.name for entry in os.scandir(key) if entry.is_dir()]
        return []

    def delete_file(self, key: str) -> None:
        Path(key).unlink(missing_ok=True)

    def delete_folder(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(key)

    def move_folder(self, source: str, target: str) -> None:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        os.rename(source, target)

    def list_broken_off(self, key: str) -> list[Entry]:
        return [entry for entry in self.list_files(key) if is_temporary(entry.path)]

    def delete_broken_off(self, key: str, entry: Entry) -> None:
        self.delete_file(f"{key}/{entry.path}")


@contextlib.contextmanager
def take_turns(path: Path, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path` while the block runs: alone, or `shared` with others that share it.

    The lock ends with the process that holds it, and the file goes with its last lone holder. Raises `BlockingIOError`
    where somebody else holds it and `wait` is False.
    """
    mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        turn = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(turn, mode)
            if not _is_still(path, turn):
                continue  # whoever had it before has removed it: this is no longer the file that others lock
            try:
                yield
            finally:
                if not shared:
                    path.unlink(missing_ok=True)
            return
        finally:
            os.close(turn)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _link(temporary: Path, target: Path) -> bool:
    try:
        os.link(temporary, target)  # fails where the name is taken, and never shows half a file
    except FileExistsError:
        return False
    return True


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _version(status: os.stat_result) -> str:
    return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"


def _entry(path: Path, name: str) -> Entry:
    status = path.stat()
    return Entry(name, status.st_size, status.st_mtime_ns)


def _files_below(folder: Path, prefix: str) -> Iterator[Entry]:
    """Files that go away while they are listed are not listed."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for item in os.scandir(folder):
            if item.is_dir():
                yield from _files_below(Path(item.path), f"{prefix}{item.name}/")
            elif item.is_file():
                with contextlib.suppress(FileNotFoundError):
                    status = item.stat()
                    yield Entry(f"{prefix}{item.name}", status.st_size, status.st_mtime_ns)
