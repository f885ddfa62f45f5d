"""The interface of a store (local disk or bucket), and what the two object stores share.

A key is an absolute path on a disk and an object name in a bucket. Stores retry transient faults; other faults are
raised as `FileNotFoundError`, or as an `S2LError` with the URI and a hint. No message contains a credential.
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
    """One file of a listing: path relative to the listed folder, size in bytes, modification time.

    version: an ETag, a generation or an upload id, which differs for every content; "" where a listing has none.
    """

    path: str
    bytes: int
    mtime_ns: int
    version: str = ""


def is_temporary(path: str) -> bool:
    """Whether a part of the path begins with a dot: a file that is still being written."""
    return any(part.startswith(".") for part in path.split("/"))


class Store(Protocol):
    """Operations on whole files of a disk or a bucket."""

    def exists(self, key: str) -> bool:
        """Whether the key is a file or a folder."""

    def find(self, key: str) -> Entry | None:
        """Entry of a file, or None."""

    def read(self, key: str) -> tuple[bytes, str]:
        """Content and version of a file. Raises `FileNotFoundError`."""

    def open(self, key: str) -> pa.NativeFile:
        """Open a file for random access. Raises `FileNotFoundError`."""

    def write(self, key: str, data: bytes) -> None:
        """Write a file atomically: readers see the old content, the new content or no file."""

    def write_if(self, key: str, data: bytes, version: str | None) -> str | None:
        """Write a file if its current version is `version` (None: if it does not exist); return the new version.

        Exactly one of several concurrent writers succeeds. Returns None where the version differs, and also where the
        response to a successful write was lost.
        """

    def upload(self, source: Path, key: str) -> None:
        """Write a local file atomically, streamed."""

    def download(self, key: str, target: Path) -> None:
        """Copy a file to a local path, streamed. Raises `FileNotFoundError`."""

    def list_files(self, key: str) -> list[Entry]:
        """All files below a folder, temporary ones included, in no particular order."""

    def list_folders(self, key: str) -> list[str]:
        """Names of the folders directly below a folder."""

    def delete_file(self, key: str) -> None:
        """Delete a file, if it exists."""

    def delete_folder(self, key: str) -> None:
        """Delete a folder and everything below it, if it exists."""

    def move_folder(self, source: str, target: str) -> None:
        """Rename a folder within this store."""

    def list_incomplete_uploads(self, key: str) -> list[Entry]:
        """Incomplete uploads below a folder (temporary files, unfinished multipart uploads)."""

    def delete_incomplete_upload(self, key: str, entry: Entry) -> None:
        """Delete an entry that `list_incomplete_uploads` returned for this folder."""


# Part of a listing: objects with their full names, and the folders beside them, each ending in a slash.
Page = tuple[list[Entry], list[str]]


def list_in_parallel(list_pages: Callable[[str, bool], Iterator[Page]], prefix: str) -> list[Entry]:
    """List every object below a prefix: with one request if a page holds all, else folder by folder, concurrently.

    `list_pages(prefix, flat)` yields the pages of one listing, about 1,000 names each.
    """
    pages = list_pages(prefix, True)
    first, _ = next(pages, ([], []))
    if next(pages, None) is None:
        return first
    found: list[Entry] = []
    with ThreadPoolExecutor(THREADS) as threads:
        pending: set[Future[Page]] = {threads.submit(_list_folder, list_pages, prefix)}
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
    for page_entries, page_folders in list_pages(prefix, False):
        entries += page_entries
        folders += page_folders
    return entries, folders


class RangeRequestFile(io.RawIOBase):
    """A seekable file over an object; every read is one range request."""

    def __init__(self, request_range: Callable[[int, int], bytes], size: int) -> None:
        self._request_range = request_range
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
        data = self._request_range(self._position, stop)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def open_with_range_requests(request_range: Callable[[int, int], bytes], size: int) -> pa.NativeFile:
    """Wrap an object of `size` bytes as an Arrow file; `request_range(start, stop)` returns those bytes."""
    return pa.PythonFile(io.BufferedReader(RangeRequestFile(request_range, size), READ_AHEAD_BYTES), mode="r")
