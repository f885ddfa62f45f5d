"""Rows of text files with one JSON object per line.

Files are read as a stream of chunks, never as a whole. A truncated stream yields the rows before the end and then one
rejected row with the reason `file_broken`.
"""

import math
from collections.abc import Iterable, Iterator

import pyarrow as pa

from s2l_ray.sources.files.compression import CHUNK_BYTES
from s2l_ray.sources.rows import FILE_BROKEN, MAX_ROW_BYTES, BrokenFileError, RawRow, row_from_line

LINE_END_BYTES = 64 << 10
BOM = b"\xef\xbb\xbf"


def read_chunks(stream: pa.NativeFile) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def split_lines(
    chunks: Iterable[bytes], end: bytes = b"\n", max_bytes: int = MAX_ROW_BYTES
) -> Iterator[tuple[int, bytes | None]]:
    """Length of each line including its end, and its bytes without; None for a line longer than `max_bytes`."""
    line, length = bytearray(), 0
    for chunk in chunks:
        *lasts, rest = chunk.split(end)
        for last in lasts:
            length += len(last) + 1
            yield length, bytes(line + last) if length <= max_bytes else None
            line.clear()
            length = 0
        length += len(rest)
        if length <= max_bytes:
            line += rest
        else:
            line.clear()
    if length:
        yield length, bytes(line) if length <= max_bytes else None


def read_lines(
    chunks: Iterable[bytes], end: bytes = b"\n", offset: int = 0, stop: float = math.inf
) -> Iterator[RawRow]:
    """Rows of the lines that start before byte `stop`; the first line starts at byte `offset`."""
    line = 0
    try:
        for line, (length, data) in enumerate(split_lines(chunks, end), start=1):
            if offset >= stop:
                return
            yield row_from_line(line, data.removeprefix(BOM) if data and offset == 0 else data)
            offset += length
    except BrokenFileError as error:
        yield RawRow(line + 1, None, FILE_BROKEN, str(error))


def read_byte_range(stream: pa.NativeFile, end: bytes, start: int, stop: int) -> Iterator[RawRow]:
    """Rows of the lines that start at a byte in [start, stop)."""
    offset = _first_line_start(stream, end, start, stop)
    stream.seek(offset)
    return read_lines(_read_range_chunks(stream, offset, stop), end, offset, stop)


def _read_range_chunks(stream: pa.NativeFile, offset: int, stop: int) -> Iterator[bytes]:
    """Chunks from `offset`; beyond `stop` small ones, of which only the end of a line is needed."""
    while chunk := stream.read(min(CHUNK_BYTES, stop - offset) if offset < stop else LINE_END_BYTES):
        offset += len(chunk)
        yield chunk


def _first_line_start(stream: pa.NativeFile, end: bytes, start: int, stop: int) -> int:
    """Offset of the first line that starts in [start, stop), else `stop`."""
    if start == 0:
        return 0
    offset = start - 1
    stream.seek(offset)
    while offset < stop:
        chunk: bytes = stream.read(min(LINE_END_BYTES, stop - offset))
        found = chunk.find(end)
        if found >= 0:
            return offset + found + 1
        if not chunk:
            break
        offset += len(chunk)
    return stop
