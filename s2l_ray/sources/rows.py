"""One raw row of a source, and how a piece of JSON or a table becomes one.

In: the bytes of a line, the text of a list's element, or an Arrow table.
Out: `RawRow`s: a JSON object, or the reason why there is none. A fault of one row is never an exception.
NaN and Infinity, which Python writes into JSON, are read as Python reads them: the row stays as it came.
"""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any

import pyarrow as pa

from s2l_ray.errors import S2LError

UNDECODABLE = "undecodable"
NOT_AN_OBJECT = "not_an_object"
FILE_BROKEN = "file_broken"

ROW_BYTES = 64 << 20
"""A longer row is set aside, so that one endless line does not fill the memory."""

_SURROGATE = re.compile(r"\\u[dD][89abAB]")


class SourceError(S2LError):
    """A source cannot be read at all, or is not what its name says."""


class BrokenFileError(Exception):
    """The file breaks off here; what came before it is good."""


@dataclass(frozen=True)
class RawRow:
    """One row at `line` (counted from 1 within its range): the object, or a problem and its detail.

    Neither stands for a blank line, which readers of a file count and nobody else sees.
    """

    line: int
    row: dict[str, Any] | None = None
    problem: str | None = None
    detail: str = ""


def row_of_line(line: int, data: bytes | None) -> RawRow:
    """A line of JSON; None stands for one that is too long to be read."""
    if data is None:
        return RawRow(line, None, UNDECODABLE, f"longer than {ROW_BYTES} bytes")
    if not data.strip():
        return RawRow(line)
    try:
        text = data.decode()
        return row_of_value(line, json.loads(text), text)
    except UnicodeDecodeError as error:
        return RawRow(line, None, UNDECODABLE, f"not UTF-8 at byte {error.start}")
    except RecursionError:
        return RawRow(line, None, UNDECODABLE, "nested too deep")
    except ValueError as error:
        return RawRow(line, None, UNDECODABLE, f"not JSON: {error}")


def row_of_value(line: int, value: Any, text: str) -> RawRow:
    """A JSON value that stood as `text`, in which bytes that are no UTF-8 are escaped as surrogates."""
    if not isinstance(value, dict):
        return RawRow(line, None, NOT_AN_OBJECT, f"a {type(value).__name__}, not an object")
    try:
        text.encode()
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return RawRow(line, None, UNDECODABLE, "half of a surrogate pair, or bytes that are not UTF-8")
    return RawRow(line, value)


def rows_of_table(line: int, table: pa.Table | pa.RecordBatch) -> Iterator[RawRow]:
    """The rows of a table, the first of them at `line`. What JSON does not know becomes text."""
    try:
        rows = table.to_pylist()
    except UnicodeDecodeError as error:
        if table.num_rows == 1:
            yield RawRow(line, None, UNDECODABLE, f"not UTF-8 at byte {error.start}")
            return
        half = table.num_rows // 2
        yield from rows_of_table(line, table.slice(0, half))
        yield from rows_of_table(line + half, table.slice(half))
        return
    for position, row in enumerate(rows):
        yield RawRow(line + position, {str(name): _plain(value) for name, value in row.items()})


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)
