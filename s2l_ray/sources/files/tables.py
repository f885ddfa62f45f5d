"""Rows of Parquet row groups, and of Arrow files and streams.

A damaged table yields the rows before the damage and then one rejected row with the reason `file_broken`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from s2l_ray.sources.rows import BATCH_BYTES, FILE_BROKEN, RawRow, SourceError, rows_from_table, rows_of_bytes

BATCH_ROWS, BUFFER_BYTES = 1000, 1 << 20
# First bytes of an Arrow file, and of a file of Feather version 1.
ARROW_FILE, FEATHER_1 = b"ARROW1", b"FEA1"
ARROW_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
TABLE_ERRORS = (pa.ArrowException, OSError)


def _is_damage(error: Exception) -> bool:
    """Whether the table is damaged, as opposed to an I/O error of the disk.

    pyarrow raises a plain OSError for a wrong page checksum or a truncated message; those of the system have an errno
    or a subclass.
    """
    return isinstance(error, pa.ArrowException) or (type(error) is OSError and error.errno is None)


def row_group_starts(stream: pa.NativeFile, file: str) -> list[int]:
    """Row numbers at which the row groups of a Parquet file start, followed by the number of rows.

    Raises `SourceError` if the footer cannot be read, or for two columns of one name.
    """
    try:
        metadata = pq.read_metadata(stream)
    except TABLE_ERRORS as error:
        if not _is_damage(error):
            raise
        raise SourceError(f"{file}: not a Parquet file, or truncated ({error}); write it again") from error
    refuse_repeated_columns(metadata.schema.to_arrow_schema().names, file)
    starts = [0]
    for group in range(metadata.num_row_groups):
        starts.append(starts[-1] + metadata.row_group(group).num_rows)
    return starts


def refuse_repeated_columns(names: Sequence[str], file: str) -> None:
    """Raise `SourceError` for two columns of one name, of which a row can have one only."""
    for name, columns in Counter(names).items():
        if columns > 1:
            raise SourceError(f"{file}: has {columns} columns named {name}; rename all but one of them")


def read_row_group(stream: pa.NativeFile, file: str, start: int) -> Iterator[RawRow]:
    """Rows of the row group that starts at row `start`."""
    group = row_group_starts(stream, file).index(start)
    parquet = pq.ParquetFile(stream, page_checksum_verification=True, pre_buffer=False, buffer_size=BUFFER_BYTES)
    metadata = parquet.metadata.row_group(group)
    rows = rows_of_bytes(BATCH_BYTES, metadata.num_rows, metadata.total_byte_size)
    yield from _read_batches(parquet.iter_batches(min(BATCH_ROWS, rows), row_groups=[group]))


def arrow_kind(stream: pa.NativeFile, file: str) -> str:
    """`arrow` for an Arrow file (Feather version 2), `arrow_stream` for an Arrow stream.

    Raises `SourceError` for other files, and for two columns of one name.
    """
    stream.seek(0)
    head = stream.read(len(ARROW_FILE))
    if head.startswith(FEATHER_1):
        raise SourceError(f"{file}: is a file of Feather version 1; save it with pyarrow.feather.write_feather")
    kind = "arrow" if head == ARROW_FILE else "arrow_stream"
    refuse_repeated_columns(_open_arrow(stream, file, kind).schema.names, file)
    return kind


def _open_arrow(
    stream: pa.NativeFile, file: str, kind: str
) -> pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader:
    stream.seek(0)
    try:
        return pa.ipc.open_file(stream) if kind == "arrow" else pa.ipc.open_stream(stream)
    except TABLE_ERRORS as error:
        if not _is_damage(error):
            raise
        raise SourceError(f"{file}: not an Arrow file, or truncated ({error}); write it again") from error


def read_arrow(stream: pa.NativeFile, file: str, kind: str) -> Iterator[RawRow]:
    """Rows of an Arrow file or stream."""
    stream.seek(max(stream.size() - len(ARROW_END), 0))
    complete = kind == "arrow" or stream.read() == ARROW_END
    reader = _open_arrow(stream, file, kind)
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        batches = map(reader.get_batch, range(reader.num_record_batches))
    else:
        batches = iter(reader)
    yield from _read_batches(map(_validated, batches), complete)


def _validated(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch after a check of its offsets and texts: Arrow data has no checksum, and wrong offsets crash pyarrow."""
    batch.validate(full=True)
    return batch


def _read_batches(batches: Iterator[pa.RecordBatch], complete: bool = True) -> Iterator[RawRow]:
    """Rows of all batches. An Arrow stream truncated between two batches raises no error, hence `complete`."""
    line = 1
    while True:
        try:
            batch = next(batches, None)
        except TABLE_ERRORS as error:
            if not _is_damage(error):
                raise
            yield RawRow(line, None, FILE_BROKEN, str(error).splitlines()[0])
            return
        if batch is None:
            break
        yield from rows_from_table(line, batch)
        line += batch.num_rows
    if not complete:
        yield RawRow(line, None, FILE_BROKEN, "the Arrow stream ends before its end marker")
