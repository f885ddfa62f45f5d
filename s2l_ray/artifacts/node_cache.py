"""A node's copies of stored files: fetched once, shared by its processes, kept within a size.

In: files of an artefact, by their records. Out: a local folder that holds them while a block runs. A copy is named
after the sha256 of all it holds and checked against it each time, so a stale or torn one is never used. It is put under
a temporary name and then renamed. Where a new one needs room, those used longest ago go first, but none that is in use.
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
from s2l_ray.artifacts.tables import FileRecord, check_file
from s2l_ray.errors import DamagedError, StorageError
from s2l_ray.storage.disk import take_turns

LIMIT_BYTES = 50 << 30
PART = ".part"


@contextlib.contextmanager
def hold(uri: str, records: Sequence[FileRecord], limit_bytes: int = LIMIT_BYTES) -> Iterator[Path]:
    """A local folder with these files of the folder `uri`, which is that folder itself on a disk.

    Raises `DamagedError` where one is missing or not what its record says.
    """
    if storage.is_local(uri):
        for record in records:
            check_file(uri, record)
        yield storage.local_path(uri)
        return
    if sum(record.bytes for record in records) > limit_bytes:
        with tempfile.TemporaryDirectory() as folder:
            _fetch(uri, records, Path(folder))
            yield Path(folder)
        return
    listed = sorted((record.path, record.sha256) for record in records)
    place = cache_folder() / hashlib.sha256(canonical_json(listed).encode()).hexdigest()
    while True:
        with take_turns(_turn(place), shared=True):
            if _is_whole(place, records):
                os.utime(place)
                yield place
                return
        with take_turns(_turn(place)):
            if not _is_whole(place, records):  # nobody was faster
                _put(uri, records, place, limit_bytes)


def cache_folder() -> Path:
    """Where this user's copies lie. Raises `StorageError` where the folder is somebody else's."""
    folder = Path(tempfile.gettempdir()) / f"s2l_ray-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise StorageError(f"{folder}: belongs to another user; remove it, or set TMPDIR")
    return folder


def _put(uri: str, records: Sequence[FileRecord], place: Path, limit_bytes: int) -> None:
    part = place.with_name(place.name + PART)
    for leftover in (place, part):
        shutil.rmtree(leftover, ignore_errors=True)
    _make_room(place.parent, limit_bytes - sum(record.bytes for record in records))
    _fetch(uri, records, part)
    part.rename(place)


def _fetch(uri: str, records: Sequence[FileRecord], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for record in records:
        place = storage.join(uri, record.path)
        try:
            storage.get_file(place, folder / record.path)
        except FileNotFoundError as error:
            raise DamagedError(f"{place}: missing, though its manifest lists it") from error
        if not _is_whole(folder, [record]):
            raise DamagedError(f"{place}: damaged, its sha256 is not the one in the manifest")


def _make_room(folder: Path, allowed_bytes: int) -> None:
    """Remove the copies used longest ago until all take no more than `allowed_bytes`."""
    used: dict[Path, float] = {}
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process removes copies too
            if path.is_dir():
                used[path] = path.stat().st_mtime
    copies = sorted(used, key=used.__getitem__)
    sizes = {path: sum(entry.bytes for entry in storage.list_files(str(path))) for path in copies}
    taken = sum(sizes.values())
    for path in copies:
        if taken <= allowed_bytes:
            return
        with contextlib.suppress(BlockingIOError), take_turns(_turn(path), wait=False):
            shutil.rmtree(path, ignore_errors=True)
            taken -= sizes[path]


def _turn(place: Path) -> Path:
    return place.with_name(f".{place.name.removesuffix(PART)}.turn")


def _is_whole(folder: Path, records: Sequence[FileRecord]) -> bool:
    try:
        return all(_sha256(folder / record.path) == record.sha256 for record in records)
    except FileNotFoundError:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
