"""Rows of text files, plain or gzip: one JSON object per line, or one JSON list.

Files are read as a stream of chunks, never as a whole. A truncated stream yields the rows before the end and then one
rejected row with the reason `file_broken`.
"""

import codecs
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterable, Iterator

import pyarrow as pa

from s2l_ray.sources.rows import FILE_BROKEN, MAX_ROW_BYTES, BrokenFileError, RawRow, row_from_line, row_from_value

CHUNK_BYTES = 4 << 20
LINE_END_BYTES = 64 << 10
DECOMPRESSED_BYTES = 1 << 20
BOM = b"\xef\xbb\xbf"
JSON_SPACE = " \t\r\n"
AFTER_NUMBER = frozenset(JSON_SPACE + ",]")


def read_chunks(stream: pa.NativeFile) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def gunzip(stream: io.RawIOBase | pa.NativeFile) -> Iterator[bytes]:
    """Decompress gzip data of one or more members, in chunks of at most `DECOMPRESSED_BYTES`.

    Raises `BrokenFileError` if the data is truncated or damaged.
    """
    # read1 returns all data before the damage; the buffer makes large reads of small ones
    data = gzip.GzipFile(fileobj=io.BufferedReader(stream, CHUNK_BYTES))
    try:
        while chunk := data.read1(DECOMPRESSED_BYTES):
            yield chunk
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BrokenFileError(f"truncated or damaged gzip data: {error}") from error


def split_lines(chunks: Iterable[bytes], max_bytes: int = MAX_ROW_BYTES) -> Iterator[tuple[int, bytes | None]]:
    """Length of each line including its newline, and its bytes without; None for a line longer than `max_bytes`."""
    line, length = bytearray(), 0
    for chunk in chunks:
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            length += len(end) + 1
            yield length, bytes(line + end) if length <= max_bytes else None
            line.clear()
            length = 0
        length += len(rest)
        if length <= max_bytes:
            line += rest
        else:
            line.clear()
    if length:
        yield length, bytes(line) if length <= max_bytes else None


def read_lines(chunks: Iterable[bytes], offset: int = 0, stop: float = math.inf) -> Iterator[RawRow]:
    """Rows of the lines that start before byte `stop`; the first line starts at byte `offset`."""
    line = 0
    try:
        for line, (length, data) in enumerate(split_lines(chunks), start=1):
            if offset >= stop:
                return
            yield row_from_line(line, data.removeprefix(BOM) if data and offset == 0 else data)
            offset += length
    except BrokenFileError as error:
        yield RawRow(line + 1, None, FILE_BROKEN, str(error))


def read_byte_range(stream: pa.NativeFile, start: int, stop: int) -> Iterator[RawRow]:
    """Rows of the lines that start at a byte in [start, stop)."""
    offset = _first_line_start(stream, start, stop)
    stream.seek(offset)
    return read_lines(_read_range_chunks(stream, offset, stop), offset, stop)


def _read_range_chunks(stream: pa.NativeFile, offset: int, stop: int) -> Iterator[bytes]:
    """Chunks from `offset`; beyond `stop` small ones, of which only the end of a line is needed."""
    while chunk := stream.read(min(CHUNK_BYTES, stop - offset) if offset < stop else LINE_END_BYTES):
        offset += len(chunk)
        yield chunk


def _first_line_start(stream: pa.NativeFile, start: int, stop: int) -> int:
    """Offset of the first line that starts in [start, stop), else `stop`."""
    if start == 0:
        return 0
    offset = start - 1
    stream.seek(offset)
    while offset < stop:
        chunk: bytes = stream.read(min(LINE_END_BYTES, stop - offset))
        newline = chunk.find(b"\n")
        if newline >= 0:
            return offset + newline + 1
        if not chunk:
            break
        offset += len(chunk)
    return stop


def read_list(chunks: Iterable[bytes], max_bytes: int = MAX_ROW_BYTES) -> Iterator[RawRow]:
    """Rows of a file that is one JSON list; the line of a row is its number in the list."""
    text, line = _JsonText(chunks), 0
    try:
        if text.peek() != "[":
            raise BrokenFileError("no list at the start")
        text.position += 1
        closed = text.peek() == "]"
        while not closed:
            row = row_from_value(line + 1, *text.read_value(max_bytes))
            line += 1
            yield row
            mark = text.peek()
            if mark not in (",", "]"):
                raise BrokenFileError("the list is not closed" if not mark else f"{mark!r} after a row")
            closed = mark == "]"
            text.position += not closed
        text.position += 1
        if text.peek():
            raise BrokenFileError("something follows the list")
    except BrokenFileError as error:
        yield RawRow(line + 1, None, FILE_BROKEN, str(error))


class _JsonText:
    """A window on a JSON text that is decoded chunk by chunk; `position` is the next character in `window`."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.window = ""
        self.position = 0
        self._chunks = iter(chunks)
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._json = json.JSONDecoder()

    def fill(self) -> bool:
        """Append a chunk and discard the text before `position`; False at the end of the file."""
        for chunk in self._chunks:
            self.window = self.window[self.position :] + self._utf8.decode(chunk)
            self.position = 0
            return True
        return False

    def peek(self) -> str:
        """Skip white space and return the next character without consuming it; "" at the end of the file."""
        while True:
            while self.position < len(self.window):
                if self.window[self.position] not in JSON_SPACE:
                    return self.window[self.position]
                self.position += 1
            if not self.fill():
                return ""

    def read_value(self, max_bytes: int) -> tuple[object, str]:
        self.peek()
        while True:
            try:
                value, end = self._json.raw_decode(self.window, self.position)
                # A number is complete only before a delimiter: 12 may be the start of 123.
                complete = isinstance(value, dict | list | str) or self.window[end : end + 1] in AFTER_NUMBER
                if complete or not self.fill():
                    text = self.window[self.position : end]
                    self.position = end
                    return value, text
            except (ValueError, RecursionError) as error:
                self._double_window(max_bytes, error)

    def _double_window(self, max_bytes: int, error: Exception) -> None:
        """Read twice as much text before the next attempt, so that a long row is not parsed once per chunk."""
        wanted = 2 * (len(self.window) - self.position)
        if wanted > 2 * max_bytes or not self.fill():
            raise BrokenFileError(f"not JSON: {error}") from error
        while len(self.window) < wanted and self.fill():
            pass
