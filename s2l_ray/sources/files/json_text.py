"""Rows of JSON files that are not one object per line.

Such a file is a list of rows, an object with such a list (`{"data": [...]}`), objects one after another, or one object
whose values are columns. It is read as a stream of chunks, a row at a time; an object of columns is read whole.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Sequence

from s2l_ray.core.data.chat import is_chat
from s2l_ray.sources.rows import FILE_BROKEN, MAX_ROW_BYTES, BrokenFileError, RawRow, row_from_value

JSON_SPACE = " \t\r\n"
AFTER_NUMBER = frozenset(JSON_SPACE + ",]}")
# Keys of an object under which the rows of a file are listed.
LIST_KEYS = ("data", "rows", "examples", "instances", "train")
# They are looked for in so much text.
HEAD_CHARACTERS = 64 << 10
LIST_OF_OBJECTS = re.compile(r"\[\s*\{")

Value = tuple[object, str]


def read_json(chunks: Iterable[bytes], max_bytes: int = MAX_ROW_BYTES) -> Iterator[RawRow]:
    """Rows of a JSON file; the line of a row is its number. Damaged text ends with a row that is `file_broken`."""
    line = 0
    try:
        for line, (value, text) in enumerate(_values(JsonText(chunks), max_bytes), start=1):
            yield row_from_value(line, value, text)
    except BrokenFileError as error:
        yield RawRow(line + 1, None, FILE_BROKEN, str(error))


def _values(text: "JsonText", max_bytes: int) -> Iterator[Value]:
    """The rows of a file as values, each with its text."""
    mark = text.peek()
    if not mark:
        return
    if mark not in ("[", "{"):
        raise BrokenFileError("no list or object at the start")
    text.fill_to(HEAD_CHARACTERS)
    head = text.window[text.position :]
    rows = list_start(head)
    if mark == "[":
        text.position += 1
        yield from _list_values(text, max_bytes)
    elif rows is not None:
        text.position += rows
        yield from _list_values(text, max_bytes)
        for name, value in json.loads(head[:rows] + "]}").items():  # the keys before the list of rows
            _refuse_other_list(name, value)
        _skip_other_keys(text, max_bytes)
    else:
        yield from _objects(text, max_bytes)
    if text.peek():
        raise BrokenFileError("something follows the list")


def _list_values(text: "JsonText", max_bytes: int) -> Iterator[Value]:
    """The values of a list from after its bracket, which is consumed too."""
    closed = text.peek() == "]"
    while not closed:
        yield text.read_value(max_bytes)
        mark = text.peek()
        if mark not in (",", "]"):
            raise BrokenFileError("the list is not closed" if not mark else f"{mark!r} after a row")
        closed = mark == "]"
        text.position += not closed
    text.position += 1


def _skip_other_keys(text: "JsonText", max_bytes: int) -> None:
    """Consume the rest of an object after its list of rows."""
    while text.peek() == ",":
        text.position += 1
        name, _ = text.read_value(max_bytes)
        if text.peek() != ":":
            raise BrokenFileError(f"no value of {name}")
        text.position += 1
        value, _ = text.read_value(max_bytes)
        _refuse_other_list(name, value)
    if text.peek() != "}":
        raise BrokenFileError("the object around the list is not closed")
    text.position += 1


def _refuse_other_list(name: object, value: object) -> None:
    """Raise `BrokenFileError` for another list of objects beside the list of rows."""
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        raise BrokenFileError(f"the list {name} beside the list of rows is not read; store it as another file")


def _objects(text: "JsonText", max_bytes: int) -> Iterator[Value]:
    """Objects one after another; the rows of one that is alone and has columns as its values."""
    first = text.read_value(max_bytes)
    columns = columns_of(first[0]) if not text.peek() else None
    if columns is None:
        yield first
    else:
        for values in zip(*columns.values(), strict=True):
            row = dict(zip(columns, values, strict=True))
            yield row, json.dumps(row, ensure_ascii=False, separators=(",", ":"))
    while text.peek():
        yield text.read_value(max_bytes)


def list_start(head: str) -> int | None:
    """Position of the first row in an object with a list of rows, such as {"version": 1, "data": [{...}]}, or None.

    head: the beginning of the text, from the brace on.
    """
    decoder, position = json.JSONDecoder(), 1
    try:
        while True:
            name, position = decoder.raw_decode(head, _skip(head, position, ","))
            position = _skip(head, position, ":")
            if name in LIST_KEYS and LIST_OF_OBJECTS.match(head, position):
                return position + 1
            _, position = decoder.raw_decode(head, position)
    except (ValueError, RecursionError):
        return None


def columns_of(value: object) -> dict[str, Sequence[object]] | None:
    """The columns of an object whose values are lists of one length, or objects with the same row numbers as keys.

    None for other values, and for a row whose lists are chats.
    """
    if not isinstance(value, dict) or any(map(is_chat, value.values())):
        return None
    rows = {_row_numbers(values) for values in value.values()}
    if len(rows) != 1 or not rows.isdisjoint([None, ()]):
        return None
    return {name: list(values.values()) if isinstance(values, dict) else values for name, values in value.items()}


def _row_numbers(values: object) -> tuple[str, ...] | None:
    """The row numbers of a column: the keys of an object, or the positions in a list."""
    if isinstance(values, list):
        return tuple(map(str, range(len(values))))
    return tuple(values) if isinstance(values, dict) and all(name.isdecimal() for name in values) else None


def _skip(text: str, position: int, mark: str) -> int:
    """The first position from `position` on that is neither white space nor `mark`."""
    while text[position : position + 1] and text[position] in JSON_SPACE + mark:
        position += 1
    return position


class JsonText:
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

    def fill_to(self, characters: int) -> None:
        """Append chunks until the window has so many characters, or the file ends."""
        while len(self.window) < characters and self.fill():
            pass

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
        self.fill_to(wanted)
