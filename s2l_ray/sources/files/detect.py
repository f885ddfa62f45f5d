"""The kind of a source file, from its name and its first bytes, and the boundaries of its ranges.

Uncompressed lines are split by bytes, Parquet by row groups; a gzip file or a JSON list is one range.
"""

import json
import zlib

import pyarrow as pa

from s2l_ray.sources.files.tables import row_group_starts
from s2l_ray.sources.rows import SourceError

HEAD_BYTES = 64 << 10

TEXT_EXTENSIONS = (".jsonl", ".ndjson", ".json")
EXTENSIONS = dict.fromkeys(TEXT_EXTENSIONS, "text") | {f"{one}.gz": "gzip" for one in TEXT_EXTENSIONS}
EXTENSIONS[".parquet"] = "parquet"
# First bytes of other formats, with what to do about them.
OTHER_FORMATS = {
    b"\x1f\x8b": "gzip data; add .gz to its name",
    b"PAR1": "a Parquet file; name it .parquet",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"\x28\xb5\x2f\xfd": "zstandard data; unpack it",
    b"BZh": "bzip2 data; unpack it",
    b"\xfd7zXZ": "xz data; unpack it",
    b"\xff\xfe": "UTF-16 text; convert it to UTF-8",
    b"\xfe\xff": "UTF-16 text; convert it to UTF-8",
}


def extension_of(name: str) -> str | None:
    """The supported extension of a file name, in any case, or None."""
    return max((extension for extension in EXTENSIONS if name.lower().endswith(extension)), key=len, default=None)


def detect_ranges(stream: pa.NativeFile, file: str, range_bytes: int) -> tuple[str, list[int]]:
    """Kind of a file (lines, lines_gz, list, list_gz, parquet) and the boundaries of its ranges, ascending.

    Raises `SourceError` if the content does not match the file name.
    """
    extension = extension_of(file) or ""
    family, size = EXTENSIONS[extension], stream.size()
    if family == "parquet":
        return "parquet", row_group_starts(stream, file)
    head = stream.read(HEAD_BYTES)
    if family == "gzip":
        if not head.startswith(b"\x1f\x8b"):
            raise SourceError(f"{file}: not gzip data; compress it, or remove .gz from its name")
        inner, complete = _gunzip_head(head)
        return f"{_text_kind(file, extension, inner, complete and len(head) == size)}_gz", [0, size]
    kind = _text_kind(file, extension, head, len(head) == size)
    return kind, [0, size] if kind == "list" else [*range(0, size, range_bytes), size]


def _gunzip_head(packed: bytes) -> tuple[bytes, bool]:
    """First bytes of gzip data, and whether they are all of its content."""
    decompressor = zlib.decompressobj(wbits=31)
    try:
        head = decompressor.decompress(packed, HEAD_BYTES)
    except zlib.error:
        return b"", True
    return head, decompressor.eof and not decompressor.unused_data


def _text_kind(file: str, extension: str, head: bytes, complete: bool) -> str:
    """`lines` or `list`. Many files named .json hold one object per line. complete: `head` is the whole file."""
    for magic, description in OTHER_FORMATS.items():
        if head.startswith(magic) and (len(magic) > 2 or b"\0" in head):
            raise SourceError(f"{file}: is {description}")
    lines = head.removeprefix(b"\xef\xbb\xbf").lstrip().split(b"\n")
    complete_lines = [line for line in (lines if complete else lines[:-1]) if line.strip()]
    opens_list = lines[0].startswith(b"[")
    if extension.removesuffix(".gz") != ".json":
        if opens_list and complete_lines and not _is_json(complete_lines[0]):
            raise SourceError(f"{file}: is one JSON list, not one row per line; name it .json")
        return "lines"
    if opens_list:
        return "list"
    if complete_lines and not any(map(_is_json, complete_lines[:20])):
        raise SourceError(f"{file}: is neither a JSON list of rows nor one JSON object per line; convert it to either")
    return "lines"


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
