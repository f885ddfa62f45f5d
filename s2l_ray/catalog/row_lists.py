"""Files that name rows of a pool: lists of rows to keep or to drop, and values of the method `column`.

A row is named by its example_id, by its row number in the dataset (0 is the first row of the first shard), or by file
and line, as the tables of a dataset hold them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from s2l_ray import storage
from s2l_ray.artifacts.tables import decode_table
from s2l_ray.core.arrays import Bool, Float64, Int64
from s2l_ray.errors import ConfigError

SHOWN = 3


@dataclass
class RowList:
    """Rows named by one key of the job. unseen: ids that no row has had so far.

    Either ids or numbers is empty: a file in which every line is a number of at most 18 digits holds row numbers.
    """

    key: str
    ids: frozenset[str]
    numbers: Int64
    unseen: set[str] = field(default_factory=set)

    def mask(self, start: int, ids: Sequence[str]) -> Bool:
        """Which rows of a shard are named. start: row number of its first row; ids: its example ids."""
        stop = start + len(ids)
        mask_B = np.fromiter((one in self.ids for one in ids), bool, len(ids))
        mask_B[self.numbers[(self.numbers >= start) & (self.numbers < stop)] - start] = True
        self.unseen.difference_update(ids)
        return mask_B

    def check_complete(self, rows: int) -> None:
        """Raise `ConfigError` for ids and row numbers that no row of the dataset has."""
        unknown = [*sorted(self.unseen), *map(str, self.numbers[(self.numbers < 0) | (self.numbers >= rows)].tolist())]
        if unknown:
            shown = ", ".join(unknown[:SHOWN]) + (", ..." if len(unknown) > SHOWN else "")
            raise ConfigError(
                f"select.{self.key}: {len(unknown)} of its rows are not in the dataset ({shown}); write example ids as "
                f"`s2l export` does, or row numbers from 0 to {rows - 1}"
            )


def read_row_list(key: str, uris: Iterable[str]) -> RowList | None:
    """The rows named in text files, one a line; None without files."""
    uris = list(uris)
    if not uris:
        return None
    lines = [line.strip() for uri in uris for line in _read_text(key, uri).splitlines()]
    names = [line for line in lines if line]
    if all(name.isdecimal() and len(name) <= 18 for name in names):
        return RowList(key, frozenset(), np.unique(np.array([int(name) for name in names], np.int64)))
    return RowList(key, frozenset(names), np.empty(0, np.int64), set(names))


@dataclass(frozen=True)
class ColumnValues:
    """Values of one column of a file by the key of a row, sorted by key. by_id: the key is the example_id."""

    by_id: bool
    key_K: np.ndarray
    value_K: Float64

    def lookup(self, keys: Sequence[str]) -> Float64:
        """The value of each row; NaN where the file has none."""
        wanted_B = np.array([key.encode() for key in keys], "S")
        position_B = np.minimum(np.searchsorted(self.key_K, wanted_B), max(0, len(self.key_K) - 1))
        if not len(self.key_K):
            return np.full(len(keys), np.nan)
        return np.where(self.key_K[position_B] == wanted_B, self.value_K[position_B], np.nan)


def read_column(uri: str, column: str) -> ColumnValues:
    """Read the column and the keys of a Parquet file. Raises `ConfigError` where they are missing or not unique."""
    try:
        table = decode_table(storage.read_bytes(uri))
    except FileNotFoundError as error:
        raise ConfigError(f"select.path: {uri} does not exist; correct the path, or data.root") from error
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"select.path: {uri} is no Parquet file: {error}") from error
    names = table.column_names
    by_id = "example_id" in names
    if column not in names or not (by_id or {"file", "line"} <= set(names)):
        raise ConfigError(
            f"select.column: {uri} needs the columns {column} and example_id, or {column}, file and line; it has "
            f"{', '.join(names)}"
        )
    kind = table[column].type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise ConfigError(f"select.column: {column} of {uri} holds {kind}, not numbers; name a column of numbers")
    keys = table["example_id"].to_pylist() if by_id else file_lines(table)
    key_K = np.array([str(key).encode() for key in keys], "S")
    value_K = np.asarray(table[column].cast(pa.float64()).to_numpy(), np.float64)
    order_K = np.argsort(key_K, kind="stable")
    key_K, value_K = key_K[order_K], value_K[order_K]
    if (key_K[1:] == key_K[:-1]).any():
        raise ConfigError(f"select.path: {uri} has more than one row of one key; keep one value a row")
    return ColumnValues(by_id, key_K, value_K)


def file_lines(table: pa.Table) -> list[str]:
    """Keys `file:line` of the rows of a table."""
    return [f"{file}:{line}" for file, line in zip(table["file"].to_pylist(), table["line"].to_pylist(), strict=True)]


def _read_text(key: str, uri: str) -> str:
    try:
        return storage.read_bytes(uri).decode()
    except FileNotFoundError as error:
        raise ConfigError(f"select.{key}: {uri} does not exist; correct the path, or data.root") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"select.{key}: {uri} is not UTF-8 text with one row a line: {error}") from error
