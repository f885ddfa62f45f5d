"""Rows of CSV and TSV files: the first line names the columns, and every cell is a text."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence

from s2l_ray.sources.files.text import BOM, split_lines
from s2l_ray.sources.rows import FILE_BROKEN, MAX_ROW_BYTES, UNDECODABLE, BrokenFileError, RawRow, row_from_value

DELIMITERS = {"csv": ",", "tsv": "\t"}

csv.field_size_limit(MAX_ROW_BYTES)


def read_delimited(chunks: Iterable[bytes], kind: str, end: bytes = b"\n") -> Iterator[RawRow]:
    """Rows of the file; the line of a row is the one in which it begins, that of the header is 1.

    A cell in quotation marks may have line ends, and quotation marks that are doubled. A row with more or fewer cells
    than the header is rejected.
    """
    reader = csv.reader(_lines(chunks, end), delimiter=DELIMITERS[kind], strict=True)
    names: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield RawRow(line, None, UNDECODABLE, f"not {kind.upper()}: {error}")
            continue
        except BrokenFileError as error:
            yield RawRow(line, None, FILE_BROKEN, str(error))
            return
        if cells is None:
            return
        if cells and names is None:
            names = column_names(cells)
        elif cells and names:
            yield _row(line, names, cells)


def column_names(cells: Sequence[str]) -> list[str]:
    """The names of columns in a header."""
    return [cell.strip() for cell in cells]


def _row(line: int, names: Sequence[str], cells: Sequence[str]) -> RawRow:
    if len(cells) != len(names):
        return RawRow(line, None, UNDECODABLE, f"{len(cells)} cells, but the header has {len(names)}")
    row = dict(zip(names, cells, strict=True))
    return row_from_value(line, row, json.dumps(row, ensure_ascii=False, separators=(",", ":")))


def _lines(chunks: Iterable[bytes], end: bytes) -> Iterator[str]:
    """The lines of a file with their ends; bytes that are not UTF-8 are escaped as surrogates."""
    for number, (_, data) in enumerate(split_lines(chunks, end), start=1):
        if data is None:
            raise BrokenFileError(f"line {number} is longer than {MAX_ROW_BYTES} bytes")
        yield (data.removeprefix(BOM) if number == 1 else data).decode(errors="surrogateescape") + end.decode()
