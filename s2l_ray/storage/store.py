"""What every store does, a disk or a bucket: few operations on whole files, and one record of a listing.

In: keys, which are paths on a disk and names of objects in a bucket. Out: bytes, files and listings. A store retries
what may succeed the next time and tells the rest as `FileNotFoundError`, or as an `S2LError` with the place and the
remedy; nothing it raises holds a credential.
"""

import io
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

ATTEMPTS = 8
CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0
THREADS = 16
READ_AHEAD_BYTES = 256 << 10


@dataclass(frozen=True)
class Entry:
    """One file of a listing: its path relative to the listed folder, its size in bytes, its time of change.

    `version` is what the store gives each content anew: an ETag, a generation; empty where a listing has none.
    """

    path: str
    bytes: int
    mtime_ns: int
    version: str = ""


def is_temporary(path: str) -> bool:
    """Whether a file on its way, or one in a folder of such."""
    return any(part.startswith(".") for part in path.split("/"))


class Store(Protocol):
    """A disk, or a bucket of an object store."""

    def exists(self, key: str) -> bool:
        """Whether a file or folder stands there."""

    def find(self, key: str) -> Entry | None:
        """The file there, or None."""

    def read(self, key: str) -> tuple[bytes, str]:
        """A whole file and its version. Raises `FileNotFoundError`."""

    def open(self, key: str) -> pa.NativeFile:
        """A file open for reading at any position. Raises `FileNotFoundError`."""

    def write(self, key: str, data: bytes) -> None:
        """Put a whole file: readers see the old one, the new one or none."""

    def write_if(self, key: str, data: bytes, version: str | None) -> str | None:
        """Put a file where exactly that version stands (None: where none does), and give the new version.

        Of many at once one succeeds; None where it was another, or where an answer was lost on the way.
        """

    def upload(self, source: Path, key: str) -> None:
        """Put a local file whole, streamed."""

    def download(self, key: str, target: Path) -> None:
        """Copy a file to a local path, streamed. Raises `FileNotFoundError`."""

    def list_files(self, key: str) -> list[Entry]:
        """Every file below a folder, in no promised order, temporary ones too."""

    def list_folders(self, key: str) -> list[str]:
        """Names of the folders directly below a folder."""

    def delete_file(self, key: str) -> None:
        """Remove a file; none there is no error."""

    def delete_folder(self, key: str) -> None:
        """Remove a folder and all below it; none there is no error."""

    def move_folder(self, source: str, target: str) -> None:
        """Give a folder another place in this store."""

    def list_broken_off(self, key: str) -> list[Entry]:
        """Files below a folder that are on their way, and stay so where whoever put them is gone."""

    def delete_broken_off(self, key: str, entry: Entry) -> None:
        """Remove what `list_broken_off` listed."""


Page = tuple[list[Entry], list[str]]
"""Part of a listing: objects with their full names, and the folders beside them, each with its slash at the end."""


def list_in_parallel(list_pages: Callable[[str, bool], Iterator[Page]], prefix: str) -> list[Entry]:
    """Every object below a prefix: one flat page where that holds all, else folder by folder, many at a time.

    `list_pages(prefix, flat)` gives the pages of one listing; a page is about 1,000 names.
    """
    pages = list_pages(prefix, True)
    first, _ = next(pages, ([], []))
    if next(pages, None) is None:
        return first
    found: list[Entry] = []
    with ThreadPoolExecutor(THREADS) as threads:
        pending: set[Future[tuple[list[Entry], list[str]]]] = {threads.submit(_list_folder, list_pages, prefix)}
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for listed in done:
                entries, folders = listed.result()
                found += entries
                pending |= {threads.submit(_list_folder, list_pages, folder) for folder in folders}
    return found


def _list_folder(list_pages: Callable[[str, bool], Iterator[Page]], prefix: str) -> Page:
    entries: list[Entry] = []
    folders: list[str] = []
    for some_entries, some_folders in list_pages(prefix, False):
        entries += some_entries
        folders += some_folders
    return entries, folders


class RangeReader(io.RawIOBase):
    """An object as a file to seek in: every read is one request for a range of it."""

    def __init__(self, read_range: Callable[[int, int], bytes], size: int) -> None:
        self._read_range = read_range
        self._size = size
        self._position = 0

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


def open_ranges(read_range: Callable[[int, int], bytes], size: int) -> pa.NativeFile:
    """An object as the file that Arrow and Parquet read."""
    return pa.PythonFile(io.BufferedReader(RangeReader(read_range, size), READ_AHEAD_BYTES), mode="r")
