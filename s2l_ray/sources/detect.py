"""What a file is, by its name and its first bytes, and where it is cut into ranges.

In: an open file and its name. Out: its kind and the edges of its ranges, or `SourceError` where it is not what its name
says. Plain lines are cut by bytes, Parquet by row groups; a gzipped file or a JSON list cannot be cut.
"""

import json
import zlib

import pyarrow as pa

from s2l_ray.sources.parquet import row_group_starts
from s2l_ray.sources.rows import SourceError

HEAD_BYTES = 64 << 10

ENDINGS = {
    ".jsonl": "text",
    ".ndjson": "text",
    ".json": "text",
    ".jsonl.gz": "gzip",
    ".ndjson.gz": "gzip",
    ".json.gz": "gzip",
    ".parquet": "parquet",
}
FOREIGN = {
    b"\x1f\x8b": "gzip data; add .gz to its name",
    b"PAR1": "a Parquet file; name it .parquet",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"\x28\xb5\x2f\xfd": "zstandard data; unpack it",
    b"BZh": "bzip2 data; unpack it",
    b"\xfd7zXZ": "xz data; unpack it",
    b"\xff\xfe": "UTF-16 text; convert it to UTF-8",
    b"\xfe\xff": "UTF-16 text; convert it to UTF-8",
}


def ending_of(name: str) -> str | None:
    """The ending of a file name that is known, or None."""
    return max((ending for ending in ENDINGS if name.endswith(ending)), key=len, default=None)


def cut(stream: pa.NativeFile, file: str, range_bytes: int) -> tuple[str, list[int]]:
    """The kind of a file (lines, lines_gz, list, list_gz, parquet) and the edges of its ranges."""
    ending = ending_of(file) or ""
    family, size = ENDINGS[ending], stream.size()
    if family == "parquet":
        return "parquet", row_group_starts(stream, file)
    head = stream.read(HEAD_BYTES)
    if family == "gzip":
        if not head.startswith(b"\x1f\x8b"):
            raise SourceError(f"{file}: no gzip data; compress it, or take .gz from its name")
        inner, whole = _first_bytes(head)
        return f"{_text_kind(file, ending, inner, whole and len(head) == size)}_gz", [0, size]
    kind = _text_kind(file, ending, head, len(head) == size)
    return kind, [0, size] if kind == "list" else [*range(0, size, range_bytes), size]


def _first_bytes(packed: bytes) -> tuple[bytes, bool]:
    """The first bytes of gzipped data, and whether they are all that `packed` holds."""
    inflater = zlib.decompressobj(wbits=31)
    try:
        head = inflater.decompress(packed, HEAD_BYTES)
    except zlib.error:
        return b"", True
    return head, inflater.eof and not inflater.unused_data


def _text_kind(file: str, ending: str, head: bytes, whole: bool) -> str:
    """`lines` or `list`, by the ending and the first bytes. Many files named .json hold one object a line."""
    for magic, what in FOREIGN.items():
        if head.startswith(magic) and (len(magic) > 2 or b"\0" in head):
            raise SourceError(f"{file}: is {what}")
    lines = head.removeprefix(b"\xef\xbb\xbf").lstrip().split(b"\n")
    complete = [line for line in (lines if whole else lines[:-1]) if line.strip()]
    opens_list = lines[0].startswith(b"[")
    if ending.removesuffix(".gz") != ".json":
        if opens_list and complete and not _is_json(complete[0]):
            raise SourceError(f"{file}: is one JSON list, not one row a line; name it .json")
        return "lines"
    if opens_list:
        return "list"
    if complete and not any(map(_is_json, complete[:20])):
        raise SourceError(f"{file}: is neither a JSON list of rows nor one JSON object a line; write it as either")
    return "lines"


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
