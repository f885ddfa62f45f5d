"""Rows of text files: one JSON object a line, or one JSON list; plain or gzipped; never a whole file in memory.

In: pieces of bytes, cut anywhere. Out: `RawRow`s in order. A stream that breaks off gives the rows before the break and
then one row with the problem `file_broken`.
"""

import codecs
import json
import zlib
from collections.abc import Iterable, Iterator

import pyarrow as pa

from s2l_ray.sources.rows import FILE_BROKEN, ROW_BYTES, BrokenFileError, RawRow, row_of_line, row_of_value

PIECE_BYTES = 4 << 20
INFLATED_BYTES = 1 << 20
BOM = b"\xef\xbb\xbf"
JSON_SPACE = " \t\r\n"
MARKS = frozenset(JSON_SPACE + ",]")


def pieces_of(stream: pa.NativeFile, piece_bytes: int = PIECE_BYTES) -> Iterator[bytes]:
    """The rest of a stream."""
    while piece := stream.read(piece_bytes):
        yield piece


def inflate(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Gunzip, several members too. Raises `BrokenFileError` where the data breaks off or is damaged."""
    inflater, begun = zlib.decompressobj(wbits=31), False
    for piece in pieces:
        while piece:
            begun = True
            try:
                out = inflater.decompress(piece, INFLATED_BYTES)
            except zlib.error as error:
                raise BrokenFileError(f"damaged gzip data: {error}") from error
            yield out
            piece = inflater.unconsumed_tail
            while len(out) == INFLATED_BYTES and not piece and not inflater.eof:
                out = inflater.decompress(b"", INFLATED_BYTES)
                yield out
            if inflater.eof:
                # members may follow one another, and some writers fill the end with zeros
                piece = inflater.unused_data.lstrip(b"\0")
                inflater, begun = zlib.decompressobj(wbits=31), False
    if begun:
        raise BrokenFileError("the gzip data ends before its end marker")


def split_lines(pieces: Iterable[bytes], row_bytes: int = ROW_BYTES) -> Iterator[tuple[int, bytes | None]]:
    """Each line's length with its newline, and its bytes without; None for the bytes of one longer than row_bytes."""
    held, length = bytearray(), 0
    for piece in pieces:
        *ends, rest = piece.split(b"\n")
        for end in ends:
            length += len(end) + 1
            yield length, bytes(held + end) if length <= row_bytes else None
            held.clear()
            length = 0
        length += len(rest)
        if length <= row_bytes:
            held += rest
        else:
            held.clear()
    if length:
        yield length, bytes(held) if length <= row_bytes else None


def rows_of_lines(pieces: Iterable[bytes]) -> Iterator[RawRow]:
    """The rows of a whole file of lines."""
    line = 0
    try:
        for line, (_, data) in enumerate(split_lines(pieces), start=1):
            yield row_of_line(line, data.removeprefix(BOM) if data and line == 1 else data)
    except BrokenFileError as error:
        yield RawRow(line + 1, None, FILE_BROKEN, str(error))


def rows_of_byte_range(stream: pa.NativeFile, start: int, stop: int) -> Iterator[RawRow]:
    """The rows of the lines that start in [start, stop) of a file."""
    offset = _first_line_start(stream, start, stop)
    stream.seek(offset)
    for line, (length, data) in enumerate(split_lines(pieces_of(stream)), start=1):
        if offset >= stop:
            return
        yield row_of_line(line, data.removeprefix(BOM) if data and offset == 0 else data)
        offset += length


def _first_line_start(stream: pa.NativeFile, start: int, stop: int) -> int:
    """Where the first line at or after `start` starts; not before `stop` where there is none in between."""
    if start == 0:
        return 0
    offset = start - 1
    stream.seek(offset)
    while offset < stop:
        piece: bytes = stream.read(min(PIECE_BYTES, stop - offset))
        newline = piece.find(b"\n")
        if newline >= 0:
            return offset + newline + 1
        if not piece:
            break
        offset += len(piece)
    return stop


def rows_of_list(pieces: Iterable[bytes], row_bytes: int = ROW_BYTES) -> Iterator[RawRow]:
    """The rows of a file that is one JSON list; a row's line is its number in the list."""
    window, line = _Window(pieces), 0
    try:
        if window.next_character() != "[":
            raise BrokenFileError("no list at the start")
        window.position += 1
        closed = window.next_character() == "]"
        while not closed:
            row = row_of_value(line + 1, *window.element(row_bytes))
            line += 1
            yield row
            mark = window.next_character()
            if mark not in (",", "]"):
                raise BrokenFileError("the list is not closed" if not mark else f"{mark!r} after a row")
            closed = mark == "]"
            window.position += not closed
        window.position += 1
        if window.next_character():
            raise BrokenFileError("something follows the list")
    except BrokenFileError as error:
        yield RawRow(line + 1, None, FILE_BROKEN, str(error))


class _Window:
    """The part of a JSON text that is being read, and the pieces that are still to come."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.text = ""
        self.position = 0
        self._pieces = iter(pieces)
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._json = json.JSONDecoder()

    def fill(self) -> bool:
        """Read on; False at the end."""
        for piece in self._pieces:
            self.text = self.text[self.position :] + self._utf8.decode(piece)
            self.position = 0
            return True
        return False

    def next_character(self) -> str:
        """The next character that is no white space, which stays; empty at the end."""
        while True:
            while self.position < len(self.text):
                if self.text[self.position] not in JSON_SPACE:
                    return self.text[self.position]
                self.position += 1
            if not self.fill():
                return ""

    def element(self, row_bytes: int) -> tuple[object, str]:
        """The JSON value that starts after white space, and its text."""
        self.next_character()
        while True:
            try:
                value, end = self._json.raw_decode(self.text, self.position)
                # a number ends where the next mark stands: 12 may be the start of 123
                if isinstance(value, dict | list | str) or self.text[end : end + 1] in MARKS or not self.fill():
                    text = self.text[self.position : end]
                    self.position = end
                    return value, text
            except (ValueError, RecursionError) as error:
                self._read_on(row_bytes, error)

    def _read_on(self, row_bytes: int, error: Exception) -> None:
        """Twice as much text, so that a long row is not parsed again for every piece."""
        wanted = 2 * (len(self.text) - self.position)
        if wanted > 2 * row_bytes or not self.fill():
            raise BrokenFileError(f"not JSON: {error}") from error
        while len(self.text) < wanted and self.fill():
            pass
