"""Parquet files as units of work: one deterministic writer, one reader that checks sha256.

A file holds the sha256 of itself in its metadata, computed with zeros in that position. So it can be checked before a
manifest or a receipt records its sha256, under any version of pyarrow.
"""

import contextlib
import hashlib
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from s2l_ray import storage
from s2l_ray.errors import DamagedError

# Prefixes of the keys in the metadata of a file.
UNIT_KEY_PREFIX, NOTE_PREFIX = b"s2l.", b"s2l-note."
# In the footer the key is followed by two bytes, type and length, and the 64 hexadecimal digits of the sha256.
SHA256_KEY, SHA256_DIGITS = b"s2l-sha256", 64
UNSEALED = {SHA256_KEY: b"0" * SHA256_DIGITS}

Metadata = Mapping[str, str]


@dataclass(frozen=True)
class FileRecord:
    """One stored file: path relative to its artifact, rows (None if it is no table), size in bytes, sha256."""

    path: str
    rows: int | None
    bytes: int
    sha256: str


def record_of(path: str, data: bytes, rows: int | None = None) -> FileRecord:
    return FileRecord(path, rows, len(data), hashlib.sha256(data).hexdigest())


def encode_table(table: pa.Table, unit_key: Metadata | None = None, notes: Metadata | None = None) -> bytes:
    """Parquet bytes of a table (zstd, page checksums).

    The metadata of the file holds `unit_key`, which identifies the inputs of the unit, and `notes` on its result.
    """
    parts = [(UNIT_KEY_PREFIX, unit_key or {}), (NOTE_PREFIX, notes or {})]
    metadata = {prefix + key.encode(): part[key].encode() for prefix, part in parts for key in sorted(part)}
    stored = _stored_schema(table.schema).with_metadata({**metadata, **UNSEALED})
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.cast(stored).combine_chunks(),
        sink,
        compression="zstd",
        write_page_checksum=True,
        row_group_size=max(1, table.num_rows),
    )
    data = bytearray(sink.getvalue())
    _seal(data)
    return bytes(data)


def _seal(data: bytearray | mmap.mmap) -> None:
    """Store the sha256 of a file whose metadata is `UNSEALED` in that position."""
    digits = _digits(data)
    data[digits] = hashlib.sha256(data).hexdigest().encode()


def is_intact(data: bytes) -> bool:
    """Whether these are the bytes of a whole file of this module, unchanged."""
    digits = _digits(data)
    digest = hashlib.sha256(data[: digits.start])
    digest.update(UNSEALED[SHA256_KEY])
    digest.update(memoryview(data)[digits.stop :])
    return digest.hexdigest().encode() == data[digits]


def _digits(data: bytes | bytearray | mmap.mmap) -> slice:
    start = data.rfind(SHA256_KEY) + len(SHA256_KEY) + 2
    return slice(start, start + SHA256_DIGITS)


def _stored_schema(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_type(_stored_type(field.type)) for field in schema])


def _stored_type(data_type: pa.DataType) -> pa.DataType:
    """The type as read back from Parquet, where the field of a list is named `element`."""
    if pa.types.is_fixed_size_list(data_type):
        return pa.list_(pa.field("element", _stored_type(data_type.value_type)), data_type.list_size)
    if pa.types.is_list(data_type):
        return pa.list_(pa.field("element", _stored_type(data_type.value_type)))
    return data_type


def write_table(
    folder: str, path: str, table: pa.Table, unit_key: Metadata | None = None, notes: Metadata | None = None
) -> FileRecord:
    """Write a table to `folder/path` atomically and return its record."""
    data = encode_table(table, unit_key, notes)
    storage.write_bytes(storage.join(folder, path), data)
    return record_of(path, data, table.num_rows)


class TableWriter:
    """A table that `write_row_groups` opened. record: of the file, once it is stored."""

    record: FileRecord

    def __init__(self, file: pq.ParquetWriter) -> None:
        self._file = file
        self.rows = 0

    def write(self, table: pa.Table) -> None:
        """Append the rows of a table as one row group."""
        rows = table.cast(self._file.schema).combine_chunks()
        self._file.write_table(rows, row_group_size=max(1, len(rows)))
        self.rows += len(rows)


@contextlib.contextmanager
def write_row_groups(folder: str, path: str, schema: pa.Schema) -> Iterator[TableWriter]:
    """Write a table of which one row group is in memory. It is stored when the block ends without an exception."""
    stored = _stored_schema(schema).with_metadata(UNSEALED)
    with storage.output_file(storage.join(folder, path)) as local:
        with pq.ParquetWriter(local, stored, compression="zstd", write_page_checksum=True) as file:
            writer = TableWriter(file)
            yield writer
        with local.open("r+b") as written, mmap.mmap(written.fileno(), 0) as data:
            _seal(data)
            writer.record = FileRecord(path, writer.rows, len(data), hashlib.sha256(data).hexdigest())


def decode_table(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Table from Parquet bytes. Page checksums are verified."""
    file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False, page_checksum_verification=True)
    return file.read(columns=list(columns) if columns is not None else None, use_threads=False)


def read_verified(folder: str, record: FileRecord) -> bytes:
    """Bytes of a recorded file. Raises `DamagedError` if it is missing or differs from its record."""
    with _missing_is_damage(folder, record) as uri:
        data = storage.read_bytes(uri)
    _check_digest(uri, record, hashlib.sha256(data).hexdigest())
    return data


def check_file(folder: str, record: FileRecord) -> None:
    """Check a recorded file without holding it in memory. Raises `DamagedError` like `read_verified`."""
    with _missing_is_damage(folder, record) as uri:
        _check_digest(uri, record, storage.sha256_file(uri))


def download_verified(folder: str, record: FileRecord, target: Path) -> None:
    """Copy a recorded file to a local path and check it. Raises `DamagedError` like `read_verified`."""
    with _missing_is_damage(folder, record) as uri:
        storage.get_file(uri, target)
    _check_digest(uri, record, storage.sha256_file(str(target)))


@contextlib.contextmanager
def _missing_is_damage(folder: str, record: FileRecord) -> Iterator[str]:
    """The URI of a recorded file; a `FileNotFoundError` of the block becomes a `DamagedError`."""
    uri = storage.join(folder, record.path)
    try:
        yield uri
    except FileNotFoundError as error:
        raise DamagedError(f"{uri}: missing, although the manifest lists it") from error


def _check_digest(uri: str, record: FileRecord, sha256: str) -> None:
    if sha256 != record.sha256:
        raise DamagedError(f"{uri}: damaged, its sha256 differs from the one in the manifest")


def read_table(folder: str, record: FileRecord, columns: Sequence[str] | None = None) -> pa.Table:
    """Table of a recorded file, checked against its sha256."""
    return decode_table(read_verified(folder, record), columns)


def find_complete_unit(folder: str, path: str, unit_key: Metadata) -> FileRecord | None:
    """Record of a unit file that is complete and has exactly this key, else None."""
    try:
        data = storage.read_bytes(storage.join(folder, path))
    except FileNotFoundError:
        return None
    if not is_intact(data):
        return None
    schema = pq.read_schema(pa.BufferReader(data))
    if _metadata(schema, UNIT_KEY_PREFIX) != dict(unit_key):
        return None
    return record_of(path, data, pq.read_metadata(pa.BufferReader(data)).num_rows)


def notes_of(table: pa.Table) -> dict[str, str]:
    """Notes in the metadata of a file that `write_table` wrote."""
    return _metadata(table.schema, NOTE_PREFIX)


def _metadata(schema: pa.Schema, prefix: bytes) -> dict[str, str]:
    metadata = schema.metadata or {}
    return {
        key.removeprefix(prefix).decode(): value.decode() for key, value in metadata.items() if key.startswith(prefix)
    }
