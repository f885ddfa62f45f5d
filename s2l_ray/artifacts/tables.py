"""Parquet files as units of work: one writer, one verified reader.

In: Arrow tables and the facts a unit was made from. Out: a `FileRecord`, and tables whose bytes were checked. The
writer is deterministic for one version of pyarrow and writes page checksums; so a file that reads cleanly and, written
again, gives the same bytes is whole to the last bit, even before a manifest holds its sha256.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from s2l_ray import storage
from s2l_ray.errors import DamagedError

FACTS, NOTES = b"s2l.", b"s2l-note."


@dataclass(frozen=True)
class FileRecord:
    """One stored file: path relative to its artefact, rows (None where it is no table), size in bytes, sha256."""

    path: str
    rows: int | None
    bytes: int
    sha256: str


def record_of(path: str, data: bytes, rows: int | None = None) -> FileRecord:
    """The record of a file with this content."""
    return FileRecord(path, rows, len(data), hashlib.sha256(data).hexdigest())


Words = Mapping[str, str]


def encode_table(table: pa.Table, made_from: Words | None = None, notes: Words | None = None) -> bytes:
    """Parquet bytes of a table (zstd, page checksums).

    Its metadata says what it was made from, and has notes of what came of that, which do not tell it from another.
    """
    words = [(FACTS, made_from or {}), (NOTES, notes or {})]
    metadata = {prefix + key.encode(): one[key].encode() for prefix, one in words for key in sorted(one)}
    stored = pa.schema([field.with_type(_stored_type(field.type)) for field in table.schema], metadata)
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.cast(stored).combine_chunks(),
        sink,
        compression="zstd",
        write_page_checksum=True,
        row_group_size=max(1, table.num_rows),
    )
    return bytes(sink.getvalue().to_pybytes())


def _stored_type(kind: pa.DataType) -> pa.DataType:
    """The type as Parquet gives it back: the values of a list are its `element`."""
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(pa.field("element", _stored_type(kind.value_type)), kind.list_size)
    return pa.list_(pa.field("element", _stored_type(kind.value_type))) if pa.types.is_list(kind) else kind


def write_table(
    folder: str, path: str, table: pa.Table, made_from: Words | None = None, notes: Words | None = None
) -> FileRecord:
    """Put a table whole at `folder/path` and say what was put."""
    data = encode_table(table, made_from, notes)
    storage.write_bytes(storage.join(folder, path), data)
    return record_of(path, data, table.num_rows)


def decode_table(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The table in Parquet bytes; page checksums are checked."""
    file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False, page_checksum_verification=True)
    return file.read(columns=list(columns) if columns is not None else None, use_threads=False)


def read_verified(folder: str, record: FileRecord) -> bytes:
    """The file's bytes. Raises `DamagedError` where they are missing or not the recorded ones."""
    place = storage.join(folder, record.path)
    try:
        data = storage.read_bytes(place)
    except FileNotFoundError as error:
        raise DamagedError(f"{place}: missing, though its manifest lists it") from error
    if len(data) != record.bytes or hashlib.sha256(data).hexdigest() != record.sha256:
        raise DamagedError(f"{place}: damaged, its sha256 is not the one in the manifest")
    return data


def check_file(folder: str, record: FileRecord) -> None:
    """`read_verified` for a file that nobody wants to hold: read in pieces. Raises `DamagedError`."""
    place = storage.join(folder, record.path)
    try:
        digest = storage.sha256_file(place)
    except FileNotFoundError as error:
        raise DamagedError(f"{place}: missing, though its manifest lists it") from error
    if digest != record.sha256:
        raise DamagedError(f"{place}: damaged, its sha256 is not the one in the manifest")


def read_table(folder: str, record: FileRecord, columns: Sequence[str] | None = None) -> pa.Table:
    """The table of a listed file, checked against its sha256."""
    return decode_table(read_verified(folder, record), columns)


def finished_unit(folder: str, path: str, made_from: Words) -> FileRecord | None:
    """The record of a unit file that is whole and was made from exactly these facts; None where it has to be made."""
    try:
        data = storage.read_bytes(storage.join(folder, path))
    except FileNotFoundError:
        return None
    table = decode_intact(data)
    return record_of(path, data, table.num_rows) if table is not None and facts_of(table) == dict(made_from) else None


def decode_intact(data: bytes) -> pa.Table | None:
    """The table in bytes that this writer wrote, or None where a single bit of them differs from what it writes."""
    try:
        table = decode_table(data)
        return table if encode_table(table, facts_of(table), notes_of(table)) == data else None
    except (pa.ArrowException, OSError, ValueError):
        return None


def facts_of(table: pa.Table) -> dict[str, str]:
    """The facts that `write_table` put into the file's metadata."""
    return _words(table, FACTS)


def notes_of(table: pa.Table) -> dict[str, str]:
    """The notes that `write_table` put there."""
    return _words(table, NOTES)


def _words(table: pa.Table, prefix: bytes) -> dict[str, str]:
    metadata = table.schema.metadata or {}
    return {
        key.removeprefix(prefix).decode(): value.decode() for key, value in metadata.items() if key.startswith(prefix)
    }
