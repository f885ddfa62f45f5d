"""Rows of tables: a row group of a Parquet file, an Arrow file that `datasets` saved, a data set of the hub.

In: an open file or a hub reference. Out: `RawRow`s in order, and the row counts that ranges are cut from. A table that
breaks off gives the rows before the break and then one row with the problem `file_broken`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from s2l_ray.errors import ConfigError
from s2l_ray.sources.rows import FILE_BROKEN, RawRow, SourceError, rows_of_table

if TYPE_CHECKING:
    from datasets import Dataset

BATCH_ROWS = 1000
ARROW_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
TABLE_ERRORS = (pa.ArrowException, OSError)


def _is_content(error: Exception) -> bool:
    """Whether a table is broken, and not its disk: pyarrow raises a bare OSError for a page whose checksum is wrong or
    a message that is cut, while one of the system has a number or a class of its own.
    """
    return isinstance(error, pa.ArrowException) or (type(error) is OSError and error.errno is None)


def row_group_starts(stream: pa.NativeFile, file: str) -> list[int]:
    """Row numbers where the row groups of a Parquet file start, and where the last one ends.

    Raises `SourceError` where the file has no readable footer.
    """
    try:
        metadata = pq.read_metadata(stream)
    except TABLE_ERRORS as error:
        if not _is_content(error):
            raise
        raise SourceError(f"{file}: no Parquet file, or not written to its end ({error}); write it again") from error
    starts = [0]
    for group in range(metadata.num_row_groups):
        starts.append(starts[-1] + metadata.row_group(group).num_rows)
    return starts


def rows_of_row_group(stream: pa.NativeFile, file: str, start: int) -> Iterator[RawRow]:
    """The rows of the row group that starts at row `start`."""
    group = row_group_starts(stream, file).index(start)
    parquet = pq.ParquetFile(stream, page_checksum_verification=True)
    yield from _rows_of_batches(parquet.iter_batches(BATCH_ROWS, row_groups=[group]))


def rows_of_arrow(stream: pa.NativeFile, file: str) -> Iterator[RawRow]:
    """The rows of an Arrow stream file."""
    stream.seek(max(stream.size() - len(ARROW_END), 0))
    complete = stream.read() == ARROW_END
    stream.seek(0)
    try:
        batches = pa.ipc.open_stream(stream)
    except TABLE_ERRORS as error:
        if not _is_content(error):
            raise
        raise SourceError(f"{file}: no Arrow stream ({error}); save the data set again") from error
    yield from _rows_of_batches(iter(batches), complete)


def _rows_of_batches(batches: Iterator[pa.RecordBatch], complete: bool = True) -> Iterator[RawRow]:
    """An Arrow stream that is cut between two batches reads without an error; `complete` says that it was not."""
    line = 1
    while True:
        try:
            batch = next(batches, None)
        except TABLE_ERRORS as error:
            if not _is_content(error):
                raise
            yield RawRow(line, None, FILE_BROKEN, str(error).splitlines()[0])
            return
        if batch is None:
            break
        yield from rows_of_table(line, batch)
        line += batch.num_rows
    if not complete:
        yield RawRow(line, None, FILE_BROKEN, "the Arrow stream ends before its end marker")


@dataclass(frozen=True)
class HubReference:
    """A data set of the hub, as a job names it."""

    hub: str
    revision: str | None
    split: str | None

    def uri(self) -> str:
        """The reference as one text, for a range's path."""
        wanted = {"revision": self.revision, "split": self.split}
        return f"hub:{quote(self.hub)}?" + urlencode({name: value for name, value in wanted.items() if value})

    @classmethod
    def of_uri(cls, uri: str) -> HubReference:
        """The reference that `uri` wrote."""
        parts = urlsplit(uri)
        wanted = dict(parse_qsl(parts.query))
        return cls(parts.path, wanted.get("revision"), wanted.get("split"))


@lru_cache(maxsize=4)
def hub_dataset(reference: HubReference) -> Dataset:
    """The data set, downloaded where it is not there yet. Raises `ConfigError` where it cannot be had."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(f"hub: {reference.hub} needs the package datasets; pip install 's2l_ray[hub]'") from error
    try:
        loaded = datasets.load_dataset(reference.hub, revision=reference.revision, split=reference.split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ConfigError(f"hub: {reference.hub} at revision {reference.revision}: {error}") from error
    if isinstance(loaded, datasets.Dataset):
        return loaded
    raise ConfigError(f"hub: {reference.hub} has the splits {', '.join(loaded)}; write split: with one of them")


def rows_of_hub(reference: HubReference, start: int, stop: int) -> Iterator[RawRow]:
    """Rows start to stop of a data set of the hub."""
    tables = hub_dataset(reference).select(range(start, stop)).with_format("arrow")
    line = 1
    for table in tables.iter(BATCH_ROWS):
        yield from rows_of_table(line, table)
        line += table.num_rows
