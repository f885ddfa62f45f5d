"""Per-example losses that were computed elsewhere, as one table: a row an example, a column a checkpoint.

Parquet, NPY and the training dynamics of dataset cartography (`dynamics.py`) are read. Nothing is unpickled. N
examples, T checkpoints.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from s2l_ray import storage
from s2l_ray.core.arrays import Float64, Int64
from s2l_ray.errors import ConfigError, S2LError
from s2l_ray.sources.dynamics import read_dynamics

ROW = "row"
KINDS = (".parquet", ".npy", ".jsonl")
CONVERSIONS = {
    ".npz": "numpy.save('losses.npy', numpy.load('{name}', allow_pickle=False)['KEY'])",
    ".pt": "numpy.save('losses.npy', torch.load('{name}', weights_only=True).numpy())",
    ".pkl": "pandas.read_pickle('{name}').to_parquet('losses.parquet')",
}
CONVERSIONS |= {".pth": CONVERSIONS[".pt"], ".bin": CONVERSIONS[".pt"], ".pickle": CONVERSIONS[".pkl"]}
LIST_ENTRY = re.compile(r"(.+)\[(\d+)\]")


@dataclass(frozen=True)
class LossesSpec:
    """The files of losses and the meaning of their columns.

    values: loss (mean over target tokens), perplexity (its exponential), nll_sum (to be divided by the column
    `tokens`), or logits (of training dynamics). columns: step to column: a name, `name[i]` for an entry of a list
    column, or a column number of an NPY array; empty for all columns of an array or all epochs of training dynamics.
    key: `row` where rows are numbered, else the column that names them.
    """

    uri: str
    values: str
    columns: Mapping[int, str | int]
    key: str = ROW
    tokens: str | None = None

    @property
    def file_name(self) -> str:
        """Name of the file or folder, without its path."""
        return self.uri.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class LossTable:
    """Mean losses of N examples at T checkpoints, NaN where a value is missing or not finite.

    name_N: names of the rows, all different, or None where they are numbered. tokens_N: target tokens, or None.
    """

    steps: tuple[int, ...]
    loss_NT: Float64
    name_N: pa.Array | None = None
    tokens_N: Int64 | None = None

    def __len__(self) -> int:
        return len(self.loss_NT)


def losses_files(uri: str) -> list[tuple[str, storage.Entry]]:
    """URI and entry of each file, by path. Raises `ConfigError` for a pickle, or where no file can be read."""
    file = storage.find(uri)
    listed = [(uri, file)] if file else [(storage.join(uri, one.path), one) for one in storage.list_files(uri)]
    found = [(name, entry) for name, entry in listed if name.endswith(KINDS)]
    if not found:
        for name, _ in listed:
            _refuse_pickle(name)
        raise ConfigError(f"score.losses_from.path: {uri} has no file that ends in {', '.join(KINDS)}")
    if len({_kind(name) for name, _ in found}) > 1:
        raise ConfigError(f"score.losses_from.path: {uri} has files of several kinds; write the path of one")
    return found


def check_values(spec: LossesSpec, names: Sequence[str]) -> None:
    """Raise `ConfigError` for values that files of this kind do not hold: logits are those of training dynamics."""
    kind = _kind(names[0])
    held = ("logits", "loss") if kind == ".jsonl" else ("loss", "perplexity", "nll_sum")
    if spec.values not in held:
        raise ConfigError(
            f"score.losses_from.values: {names[0]} does not hold {spec.values}; a {kind} file has {' or '.join(held)}"
        )


def read_losses(spec: LossesSpec) -> LossTable:
    """The whole table, in memory.

    Raises `S2LError` for a file that cannot be read, and for a column that is missing or of another type.
    """
    names = [name for name, _ in losses_files(spec.uri)]
    check_values(spec, names)
    if _kind(names[0]) == ".npy":
        return _from_array(spec, names)
    try:
        table, epochs = _read_table(spec, names)
    except (pa.ArrowException, OSError) as error:
        raise S2LError(f"{spec.uri}: cannot be read ({error}); write the files again") from error
    return _from_table(spec, table, spec.columns or epochs)


def _read_table(spec: LossesSpec, names: Sequence[str]) -> tuple[pa.Table, Mapping[int, str | int]]:
    """The table of the files, and the columns of its steps where the files are training dynamics."""
    if _kind(names[0]) == ".parquet":
        return _read_parquet(spec, names), {}
    table, epochs = read_dynamics(names, "guid" if spec.key == ROW else spec.key)
    return table.rename_columns({"guid": ROW}) if spec.key == ROW else table, epochs


def _read_parquet(spec: LossesSpec, names: Sequence[str]) -> pa.Table:
    """The columns of the mapping, and the row numbers if there are any; no row where a column is missing."""
    tables = []
    for name in names:
        file = pq.ParquetFile(storage.open_input(name))
        stored = set(file.schema_arrow.names)
        wanted = {_stored_column(str(column), stored) for column in spec.columns.values()}
        wanted |= {column for column in (spec.tokens, spec.key) if column not in (None, ROW)}
        if not spec.columns or not wanted <= stored:
            return file.schema_arrow.empty_table()
        tables.append(file.read([column for column in file.schema_arrow.names if column in {*wanted, ROW}]))
    return pa.concat_tables(tables, promote_options="permissive")


def _stored_column(name: str, stored: Collection[str]) -> str:
    """The column that `name` is, or is an entry of."""
    entry = LIST_ENTRY.fullmatch(name) if name not in stored else None
    return entry[1] if entry else name


def _kind(name: str) -> str:
    return "." + name.rpartition(".")[2]


def _refuse_pickle(name: str) -> None:
    if _kind(name) in CONVERSIONS:
        conversion = CONVERSIONS[_kind(name)].format(name=name.rpartition("/")[2])
        raise ConfigError(
            f"score.losses_from.path: {name} may hold a pickle, which runs code when it is read, so it is not read. "
            f"If you trust its origin, convert it once in Python: {conversion}"
        )


def _from_table(spec: LossesSpec, table: pa.Table, columns: Mapping[int, str | int]) -> LossTable:
    if not columns:
        raise S2LError(f"{spec.uri}: write score.losses_from.columns: {{STEP: COLUMN}}; {_found(table)}")
    if spec.key == ROW:
        table = _in_order_of_row_numbers(spec, table)
    steps = sorted(columns)
    value_NT = np.stack([_numbers(spec, table, str(columns[step])) for step in steps], axis=1)
    tokens_N = _tokens(spec, table, spec.tokens) if spec.tokens is not None else None
    name_N = None if spec.key == ROW else _names(spec, _column(spec, table, spec.key))
    return LossTable(tuple(steps), _mean_losses(spec, value_NT, tokens_N), name_N, tokens_N)


def _from_array(spec: LossesSpec, names: Sequence[str]) -> LossTable:
    """An array [N, T], or [N] for one checkpoint."""
    if len(names) > 1 or spec.key != ROW or spec.tokens is not None:
        raise S2LError(f"{spec.uri}: an NPY file is one array, without names or tokens; store them as Parquet instead")
    try:
        value_NT = np.load(storage.open_input(names[0]), allow_pickle=False)
    except ValueError as error:
        raise S2LError(
            f"{names[0]}: not a plain array ({error}); an array of objects is a pickle, which is not read. If you "
            "trust its origin, convert it once in Python to an array of numbers, or to Parquet"
        ) from error
    value_NT = value_NT[:, None] if value_NT.ndim == 1 else value_NT
    if value_NT.ndim != 2 or value_NT.dtype.kind not in "fiu":
        raise S2LError(f"{names[0]}: is {value_NT.dtype} of shape {value_NT.shape}; store numbers as [rows, steps]")
    columns = spec.columns or {step: step for step in range(value_NT.shape[1])}
    steps = sorted(columns)
    wanted = [column for step in steps if isinstance(column := columns[step], int) and column < value_NT.shape[1]]
    if len(wanted) < len(steps):
        raise S2LError(f"{names[0]}: its columns are the numbers 0 to {value_NT.shape[1] - 1}; correct columns")
    return LossTable(tuple(steps), _mean_losses(spec, value_NT[:, wanted].astype(np.float64), None))


def _column(spec: LossesSpec, table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise S2LError(f"{spec.uri}: has no column {name}; {_found(table)}")
    return table[name]


def _found(table: pa.Table) -> str:
    return "its columns are " + ", ".join(f"{field.name} ({field.type})" for field in table.schema)


def _numbers(spec: LossesSpec, table: pa.Table, name: str) -> Float64:
    """A column, or an entry of a list column, as numbers with NaN for null."""
    entry = LIST_ENTRY.fullmatch(name) if name not in table.column_names else None
    values = _column(spec, table, entry[1] if entry else name)
    try:
        if entry:
            values = pc.list_element(values, int(entry[2]))
        numbers: Float64 = values.cast(pa.float64()).to_numpy()
    except pa.ArrowException as error:
        hint = f"write {name}[0] for its first entry" if pa.types.is_nested(values.type) else f"{error}"
        raise S2LError(f"{spec.uri}: column {name} is {values.type} and not a number; {hint}") from error
    return numbers


def _tokens(spec: LossesSpec, table: pa.Table, name: str) -> Int64:
    number_N = _numbers(spec, table, name)
    if not (np.isfinite(number_N) & (number_N >= 0) & (number_N == np.floor(number_N))).all():
        raise S2LError(f"{spec.uri}: column {name} must hold a number of tokens, at least 0, in every row")
    return number_N.astype(np.int64)


def _names(spec: LossesSpec, column: pa.ChunkedArray) -> pa.Array:
    """Names of rows as text. Raises `S2LError` unless they are all different."""
    name_N = column.cast(pa.string()).combine_chunks()
    repeated_N = name_N.value_counts()
    repeated_N = repeated_N.filter(pc.greater(repeated_N.field("counts"), 1)).field("values")
    if name_N.null_count or len(repeated_N):
        shown = ", ".join(map(str, repeated_N.slice(0, 3).to_pylist()))
        raise S2LError(
            f"{spec.uri}: {name_N.null_count} rows have no {spec.key}, and {len(repeated_N)} values occur in several "
            f"rows ({shown}); use a column with unique names as score.losses_from.key"
        )
    return name_N


def _in_order_of_row_numbers(spec: LossesSpec, table: pa.Table) -> pa.Table:
    """Rows sorted by the column `row`, where there is one; it must hold every number from 0 once."""
    if ROW not in table.column_names:
        return table
    number_N = _numbers(spec, table, ROW)  # also of numbers that are stored as text
    order_N = np.argsort(number_N, kind="stable")
    if not np.array_equal(number_N[order_N], np.arange(len(table))):
        raise S2LError(
            f"{spec.uri}: the column row does not hold every number from 0 to {len(table) - 1} once; number the rows, "
            "or set score.losses_from.key to a column that names them"
        )
    return table.take(order_N)


def _mean_losses(spec: LossesSpec, value_NT: Float64, tokens_N: Int64 | None) -> Float64:
    with np.errstate(divide="ignore", invalid="ignore"):
        if spec.values == "perplexity":
            value_NT = np.log(value_NT)
        elif spec.values == "nll_sum":
            if tokens_N is None:
                raise S2LError(f"{spec.uri}: nll_sum needs the number of target tokens; add score.losses_from.tokens")
            value_NT = value_NT / tokens_N[:, None]
    value_NT[~np.isfinite(value_NT)] = np.nan
    return value_NT
