"""Files of exported rows: JSONL, plain or gzipped, and Parquet.

In JSONL, a row of a text file is spelled as in that file. In Parquet, a field without one type that holds all its
values is JSON text.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from gzip import GzipFile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s2l_ray.errors import S2LError

# Rows as JSON texts, in parts of bounded size; read twice for Parquet.
ReadRows = Callable[[], Iterator[list[str]]]


def write_lines(read: ReadRows, path: Path, *, compressed: bool) -> int:
    rows = 0
    # a gzip header without name and time stamp, so that equal rows are equal bytes
    with path.open("wb") as file, GzipFile("", "wb", fileobj=file, mtime=0) if compressed else file as stream:
        for texts in read():
            stream.write("".join(f"{text}\n" for text in texts).encode())
            rows += len(texts)
    return rows


def write_parquet(read: ReadRows, path: Path) -> tuple[int, tuple[str, ...]]:
    """Write the rows, and return their number and the fields that are JSON text.

    Two passes: rows of several sources differ in their fields, and a Parquet file has one schema.
    """
    types = _field_types(read)
    schema = pa.schema([(name, kind or pa.string()) for name, kind in types.items()])
    as_json = tuple(name for name, kind in types.items() if kind is None)
    rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for texts in read():
            try:
                writer.write_table(pa.Table.from_pylist([_values(text, as_json) for text in texts], schema=schema))
            except pa.ArrowException as error:
                raise S2LError(f"the rows fit no Parquet schema ({error}); export to a .jsonl file") from error
            rows += len(texts)
    return rows, as_json


def _field_types(read: ReadRows) -> dict[str, pa.DataType | None]:
    """The type of every field of any of the rows; None without one that holds all its values."""
    types: dict[str, pa.DataType | None] = {}
    for texts in read():
        rows = [json.loads(text) for text in texts]
        for name in dict.fromkeys(name for row in rows for name in row):
            found = _arrow_type([row.get(name) for row in rows])
            types[name] = _common_type(types[name], found) if name in types else found
    return types


def _arrow_type(values: list[Any]) -> pa.DataType | None:
    """The type of the values; None for mixed types, `{}`, and numbers beyond 64 bits."""
    if any(map(_has_infinity, values)):
        return None
    try:
        found = pa.array(values).type
    except (pa.ArrowException, OverflowError):
        return None
    return None if _has_empty_struct(found) else found


def _common_type(first: pa.DataType | None, second: pa.DataType | None) -> pa.DataType | None:
    if first is None or second is None:
        return None
    schemas = [pa.schema([("values", one)]) for one in (first, second)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None


def _has_empty_struct(kind: pa.DataType) -> bool:
    """Whether an object without keys is a part of the type, which Parquet does not store."""
    if pa.types.is_struct(kind) and kind.num_fields == 0:
        return True
    return any(_has_empty_struct(kind.field(position).type) for position in range(kind.num_fields))


def _has_infinity(value: object) -> bool:
    """Whether a number such as 1e400 is a part of the value."""
    if isinstance(value, dict | list):
        return any(map(_has_infinity, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and math.isinf(value)


def _values(text: str, as_json: Sequence[str]) -> dict[str, Any]:
    """The fields of a row, those of `as_json` as the row spells them."""
    row: dict[str, Any] = json.loads(text)
    if any(row.get(name) is not None for name in as_json):
        spelled = dict(spelled_fields(text))
        row |= {name: spelled[name] for name in as_json if row.get(name) is not None}
    return row


def spelled_fields(text: str) -> Iterator[tuple[str, str]]:
    """Name and JSON text of each field of an object."""
    decoder, position = json.JSONDecoder(), text.index("{") + 1
    while text[position] != "}":
        name, position = decoder.raw_decode(text, _skip(text, position, " ,\t"))
        start = _skip(text, position, " :\t")
        _, position = decoder.raw_decode(text, start)
        yield name, text[start:position]
        position = _skip(text, position, " \t")


def _skip(text: str, position: int, characters: str) -> int:
    """The first position from `position` on with another character."""
    while text[position] in characters:
        position += 1
    return position
