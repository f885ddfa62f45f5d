"""Local copies of stored files, one set per node: downloaded once, shared by its processes, limited in size.

A copy is a folder named after the digest of its contents. It is downloaded under a temporary name, renamed, and
verified at every use. The least recently used copies are evicted first, but none that is in use.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from s2l_ray import storage
from s2l_ray.artifacts.fingerprint import canonical_json
from s2l_ray.artifacts.tables import FileRecord, check_file, download_verified
from s2l_ray.errors import DamagedError, StorageError
from s2l_ray.storage.disk import file_lock

LIMIT_BYTES = 50 << 30
TEMPORARY = ".part"


@contextlib.contextmanager
def cached_files(uri: str, records: Sequence[FileRecord], limit_bytes: int = LIMIT_BYTES) -> Iterator[Path]:
    """Local folder with these files of the folder `uri`, valid while the block runs; `uri` itself if it is local.

    Raises `DamagedError` if a file is missing or differs from its record.
    """
    if storage.is_local(uri):
        for record in records:
            check_file(uri, record)
        yield storage.local_path(uri)
        return
    if sum(record.bytes for record in records) > limit_bytes:
        with tempfile.TemporaryDirectory() as folder:
            _download(uri, records, Path(folder))
            yield Path(folder)
        return
    listed = sorted((record.path, record.sha256) for record in records)
    copy = cache_folder() / hashlib.sha256(canonical_json(listed).encode()).hexdigest()
    while True:
        with file_lock(_lock_path(copy), shared=True):
            if _is_complete(copy, records):
                os.utime(copy)
                yield copy
                return
        with file_lock(_lock_path(copy)):
            if not _is_complete(copy, records):  # unless another process has downloaded it meanwhile
                _populate(uri, records, copy, limit_bytes)


def cache_folder() -> Path:
    """Folder of this user's copies. Raises `StorageError` if it belongs to another user."""
    folder = Path(tempfile.gettempdir()) / f"s2l_ray-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise StorageError(f"{folder}: belongs to another user; remove it, or set TMPDIR")
    return folder


def _populate(uri: str, records: Sequence[FileRecord], copy: Path, limit_bytes: int) -> None:
    temporary = copy.with_name(copy.name + TEMPORARY)
    for leftover in (copy, temporary):
        shutil.rmtree(leftover, ignore_errors=True)
    _evict(copy.parent, limit_bytes - sum(record.bytes for record in records))
    _download(uri, records, temporary)
    temporary.rename(copy)


def _download(uri: str, records: Sequence[FileRecord], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for record in records:
        download_verified(uri, record, folder / record.path)


def _evict(folder: Path, max_bytes: int) -> None:
    """Delete the least recently used copies until the rest takes at most `max_bytes`."""
    used: dict[Path, float] = {}
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # other processes evict copies too
            if path.is_dir():
                used[path] = path.stat().st_mtime
    copies = sorted(used, key=used.__getitem__)
    sizes = {path: sum(entry.bytes for entry in storage.list_files(str(path))) for path in copies}
    total = sum(sizes.values())
    for path in copies:
        if total <= max_bytes:
            return
        with contextlib.suppress(BlockingIOError), file_lock(_lock_path(path), blocking=False):
            shutil.rmtree(path, ignore_errors=True)
            total -= sizes[path]


def _lock_path(copy: Path) -> Path:
    return copy.with_name(f".{copy.name.removesuffix(TEMPORARY)}.lock")


def _is_complete(folder: Path, records: Sequence[FileRecord]) -> bool:
    try:
        for record in records:
            check_file(str(folder), record)
    except DamagedError:
        return False
    return True
