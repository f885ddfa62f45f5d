"""The layout of a source file, from its name and its first bytes: kind, compression, boundaries of its ranges.

Uncompressed lines are split by bytes, Parquet by row groups; every other file is one range.
"""

import csv
import json
import re
from dataclasses import dataclass

import pyarrow as pa

from s2l_ray.sources.files.compression import SIGNATURES, decompress
from s2l_ray.sources.files.delimited import DELIMITERS, column_names
from s2l_ray.sources.files.json_text import LIST_OF_OBJECTS, list_start
from s2l_ray.sources.files.tables import arrow_kind, refuse_repeated_columns, row_group_starts
from s2l_ray.sources.files.text import BOM
from s2l_ray.sources.rows import BrokenFileError, SourceError

HEAD_BYTES = 64 << 10
# Complete lines of a file named .json that decide whether it has one object per line.
HEAD_LINES = 20

TEXT_KINDS = {".jsonl": "lines", ".ndjson": "lines", ".json": "json", ".csv": "csv", ".tsv": "tsv"}
TABLE_KINDS = {".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow"}
COMPRESSIONS = {"": None, ".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
# Extension to kind and compression.
EXTENSIONS: dict[str, tuple[str, str | None]] = {
    f"{name}{suffix}": (kind, compression)
    for name, kind in TEXT_KINDS.items()
    for suffix, compression in COMPRESSIONS.items()
} | {name: (kind, None) for name, kind in TABLE_KINDS.items()}

# CR only if no LF belongs to it. Cells of a CSV file with CR as its line end may have LF.
FIRST_LINE_END = re.compile(rb"\r*\n|\r")
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# First bytes of other formats, with what to do about them.
OTHER_FORMATS = {
    b"\x1f\x8b": "gzip data; add .gz to its name",
    b"\x28\xb5\x2f\xfd": "zstandard data; add .zst to its name",
    b"BZh": "bzip2 data; add .bz2 to its name",
    b"PAR1": "a Parquet file; name it .parquet",
    b"ARROW1": "an Arrow file; name it .arrow",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"\xfd7zXZ": "xz data; unpack it",
    b"\xff\xfe": "UTF-16 text; convert it to UTF-8",
    b"\xfe\xff": "UTF-16 text; convert it to UTF-8",
}
# Delimiters of files whose header has one column, with what to do about them.
OTHER_DELIMITERS = {
    "\t": "name it .tsv",
    ",": "name it .csv",
    ";": "write it again with commas and name it .csv",
    "|": "write it again with commas and name it .csv",
}


@dataclass(frozen=True)
class Layout:
    """The layout of a file. kind: lines, json, csv, tsv, parquet, arrow or arrow_stream.

    bounds: boundaries of the ranges, ascending: bytes, or rows of a Parquet file. line_end: of a text file.
    """

    kind: str
    bounds: list[int]
    compression: str | None = None
    line_end: str = "\n"


def extension_of(name: str) -> str | None:
    """The supported extension of a file name, in any case, or None."""
    return max((extension for extension in EXTENSIONS if name.lower().endswith(extension)), key=len, default=None)


def detect_layout(stream: pa.NativeFile, file: str, range_bytes: int) -> Layout:
    """The layout of a file. Raises `SourceError` if the content does not match the file name."""
    kind, compression = EXTENSIONS[extension_of(file) or ""]
    size = stream.size()
    head = stream.read(HEAD_BYTES)
    if head.startswith(LFS_POINTER):
        raise SourceError(f"{file}: is a pointer of Git LFS, not the data; run `git lfs pull` in its repository")
    if kind == "parquet":
        return Layout(kind, row_group_starts(stream, file))
    if kind == "arrow":
        return Layout(arrow_kind(stream, file), [0, size])
    if compression is None:
        return _text_layout(file, kind, head, len(head) == size, [*range(0, size, range_bytes), size])
    if not head.startswith(SIGNATURES[compression]):
        suffix = file.rpartition(".")[2]
        raise SourceError(f"{file}: not {compression} data; compress it, or remove .{suffix} from its name")
    stream.seek(0)
    layout = _text_layout(file, kind, *_decompressed_head(stream, compression), [0, size])
    return Layout(layout.kind, [0, size], compression, layout.line_end)


def _decompressed_head(stream: pa.NativeFile, compression: str) -> tuple[bytes, bool]:
    """First bytes of the content, and whether they are all of it."""
    head = bytearray()
    try:
        for chunk in decompress(stream, compression):
            head += chunk
            if len(head) > HEAD_BYTES:
                return bytes(head), False
    except BrokenFileError:
        return bytes(head), False
    return bytes(head), True


def _text_layout(file: str, kind: str, head: bytes, complete: bool, bounds: list[int]) -> Layout:
    """complete: `head` is the whole content. bounds: of ranges of lines."""
    for signature, description in OTHER_FORMATS.items():
        if head.startswith(signature) and (len(signature) > 2 or b"\0" in head):
            raise SourceError(f"{file}: is {description}")
    first_end = FIRST_LINE_END.search(head)
    line_end = "\r" if first_end and first_end[0] == b"\r" else "\n"
    data = head.removeprefix(BOM).lstrip()
    lines = data.split(line_end.encode())
    lines = [line for line in (lines if complete else lines[:-1]) if line.strip()]
    if kind in DELIMITERS:
        _check_header(file, kind, lines[:1])
    elif kind == "lines":
        _check_lines(file, lines, complete, data.decode(errors="replace"))
    elif _has_a_row_per_line(file, lines, complete, data.decode(errors="replace")):
        kind = "lines"
    return Layout(kind, bounds if kind == "lines" else [bounds[0], bounds[-1]], line_end=line_end)


def _check_header(file: str, kind: str, lines: list[bytes]) -> None:
    """Raise `SourceError` unless the first line has a name for each column, separated as the file name implies."""
    try:
        for cells in csv.reader((line.decode(errors="replace") for line in lines), delimiter=DELIMITERS[kind]):
            refuse_repeated_columns(column_names(cells), file)
            other = next((one for one in OTHER_DELIMITERS if len(cells) == 1 and one in cells[0]), None)
            if other and other != DELIMITERS[kind]:
                raise SourceError(f"{file}: its columns are separated by {other!r}; {OTHER_DELIMITERS[other]}")
    except csv.Error as error:
        raise SourceError(f"{file}: its first line does not name the columns ({error}); add a header") from error


def _check_lines(file: str, lines: list[bytes], complete: bool, text: str) -> None:
    """Raise `SourceError` where `text`, the beginning of the file, is one list, or an object over several lines."""
    one_line = len(lines) == (1 if complete else 0)
    if one_line and LIST_OF_OBJECTS.match(text):
        raise SourceError(f"{file}: is a JSON list of rows, not one row per line; name it .json")
    if lines and not _is_json(lines[0]) and (text.startswith("[") or "\n" in _first_object(text)):
        raise SourceError(f"{file}: is JSON with rows over several lines, not one row per line; name it .json")


def _has_a_row_per_line(file: str, lines: list[bytes], complete: bool, text: str) -> bool:
    """Whether a file named .json has one object per line. Raises `SourceError` if it is neither that nor JSON.

    lines: those that are complete and not blank; the first may be damaged. text: the beginning of the file.
    """
    if text.startswith("[") or (complete and len(lines) < 2 and text.startswith("{")):
        return False
    rows = [line.startswith(b"{") and _is_json(line) for line in lines[:HEAD_LINES]]
    if rows[:1] == [True]:
        return True
    if text.startswith("{"):
        return any(rows) and list_start(text) is None and "\n" not in _first_object(text)
    if lines and not any(rows):
        raise SourceError(f"{file}: is neither a JSON list of rows nor JSON objects; convert it to either")
    return any(rows)


def _first_object(text: str) -> str:
    """The text of the object at the start; empty if it is not JSON, or longer than `text`."""
    try:
        return text[: json.JSONDecoder().raw_decode(text)[1]] if text.startswith("{") else ""
    except (ValueError, RecursionError):
        return ""


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
