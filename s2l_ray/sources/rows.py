"""One row of a source, and its conversion from JSON text or an Arrow table.

A row is a JSON object or the reason for its rejection; a faulty row never raises. NaN and Infinity, which Python
writes into JSON, are read as Python reads them.
"""

import base64
import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any

import pyarrow as pa

from s2l_ray.errors import S2LError

# Reasons for rejection.
UNDECODABLE = "undecodable"
NOT_AN_OBJECT = "not_an_object"
FILE_BROKEN = "file_broken"

# Longer rows are rejected, so that a line without an end does not exhaust the memory.
MAX_ROW_BYTES = 64 << 20
# Rows of tables become Python objects, several times their size, in batches of about so many bytes.
BATCH_BYTES = 4 << 20

_LINE_ENDS = re.compile(r"[\r\n]+")
_SURROGATE = re.compile(r"\\u[dD][89abAB]")


class SourceError(S2LError):
    """A source cannot be read at all, or its content does not match its file name."""

    page = "docs/data.md#files"


class BrokenFileError(Exception):
    """The file is truncated or damaged at this position; earlier rows are valid."""


@dataclass(frozen=True)
class RawRow:
    """One row, or a rejected row with `reason` and `detail`. line: counted from 1 within the range.

    A blank line has neither `row` nor `reason`; readers of files count it and do not return it. text: the row as the
    file spells it, in one line; None for a row of a table. converted: columns of a table whose value Python cannot
    represent, so that it became text or null.
    """

    line: int
    row: dict[str, Any] | None = None
    reason: str | None = None
    detail: str = ""
    text: str | None = None
    converted: tuple[str, ...] = ()


def row_from_line(line: int, data: bytes | None) -> RawRow:
    """Row from a line of JSON; `data` is None for a line that is too long to be read."""
    if data is None:
        return RawRow(line, None, UNDECODABLE, f"longer than {MAX_ROW_BYTES} bytes")
    if not data.strip():
        return RawRow(line)
    try:
        text = data.decode()
        return row_from_value(line, json.loads(text), text)
    except UnicodeDecodeError as error:
        return RawRow(line, None, UNDECODABLE, f"not UTF-8 at byte {error.start}")
    except RecursionError:
        return RawRow(line, None, UNDECODABLE, "nested too deep")
    except ValueError as error:
        return RawRow(line, None, UNDECODABLE, f"not JSON: {error}")


def row_from_value(line: int, value: object, text: str) -> RawRow:
    """Row from a JSON value and its text, in which bytes that are not UTF-8 are escaped as surrogates."""
    if not isinstance(value, dict):
        return RawRow(line, None, NOT_AN_OBJECT, f"a {type(value).__name__}, not an object")
    try:
        text.encode()
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return RawRow(line, None, UNDECODABLE, "half of a surrogate pair, or bytes that are not UTF-8")
    # in JSON, a line end is white space between two values, never a part of a text
    lines = [text] if "\n" not in text and "\r" not in text else _LINE_ENDS.split(text)
    return RawRow(line, value, text=" ".join(filter(None, map(str.strip, lines))))


def rows_of_bytes(wanted: int, rows: int, size: int) -> int:
    """Number of rows that take about `wanted` bytes, at least one, where `rows` take `size` bytes."""
    return max(1, wanted * rows // max(1, size))


def rows_from_table(line: int, table: pa.Table | pa.RecordBatch) -> Iterator[RawRow]:
    """Rows of a table, the first of them at `line`. Values of types that JSON lacks become text."""
    rows = rows_of_bytes(BATCH_BYTES, table.num_rows, table.nbytes)
    for start in range(0, table.num_rows, rows):
        yield from _rows_of_batch(line + start, table.slice(start, rows))


def _rows_of_batch(line: int, table: pa.Table | pa.RecordBatch) -> Iterator[RawRow]:
    try:
        rows = table.to_pylist()
    except UnicodeDecodeError as error:
        if table.num_rows == 1:
            yield RawRow(line, None, UNDECODABLE, f"not UTF-8 at byte {error.start}")
            return
        half = table.num_rows // 2
        yield from _rows_of_batch(line, table.slice(0, half))
        yield from _rows_of_batch(line + half, table.slice(half))
        return
    except (OverflowError, ValueError, pa.ArrowException):  # a value that Python cannot represent
        yield from _converted_rows(line, table)
        return
    for position, row in enumerate(rows):
        yield RawRow(line + position, {str(name): _json_value(value) for name, value in row.items()})


def _converted_rows(line: int, table: pa.Table | pa.RecordBatch) -> Iterator[RawRow]:
    """Rows in which values that Python cannot represent are their text, or null."""
    for position in range(table.num_rows):
        row, converted = {}, []
        for name, column in zip(table.column_names, table.columns, strict=True):
            try:
                row[name] = _json_value(column[position].as_py())
            except (OverflowError, ValueError, pa.ArrowException):
                row[name] = _value_text(column[position])
                converted.append(name)
        yield RawRow(line + position, row, converted=tuple(converted))


def _value_text(value: pa.Scalar) -> str | None:
    with contextlib.suppress(OverflowError, ValueError, pa.ArrowException):
        text: str | None = value.cast(pa.string()).as_py()
        return text
    return None


def _json_value(value: object) -> object:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, dict):
        return {str(name): _json_value(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(inner) for inner in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)
