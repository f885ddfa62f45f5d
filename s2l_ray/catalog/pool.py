"""The pool as methods read it: columns of complete artifacts, as a method's `needs` names them.

Trajectories are read where they are an input, since they hold status and source; else the dataset. Shards are streamed
into columns of a fixed size: a ranking keeps 20 bytes a row, its scores computed shard by shard, and a draw 12. Ids are
read for ties and for selected rows, and kept only for methods that keep vectors.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from s2l_ray.artifacts.facts import ClustersFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import SUBSET
from s2l_ray.catalog.pool_columns import Columns, ShardReader
from s2l_ray.config.select import Select
from s2l_ray.core.arrays import Bool, Int64, Integers
from s2l_ray.core.selection.balancing import rows_by_group
from s2l_ray.core.selection.coverage import check_size
from s2l_ray.core.selection.pool import Pool, ReadIds, Selection
from s2l_ray.errors import ConfigError

OnShard = Callable[[int, int, str], object]


@dataclass(frozen=True)
class PoolRows:
    """A pool with the row number in the dataset of each of its rows.

    start_S: row number of the first row of each shard. source: the artifact that ids are read from. keep_N, drop_N:
    rows that the job names.
    """

    pool: Pool
    number_N: Integers
    start_S: Int64
    source: Artifact
    keep_N: Bool | None = None
    drop_N: Bool | None = None

    def positions(self, index_M: Int64) -> tuple[Int64, Int64]:
        """(shard, row in the shard) of rows of the pool."""
        return shard_and_row(self.start_S, self.number_N[index_M].astype(np.int64))


def read_pool(inputs: Mapping[str, Artifact], select: Select, root: str, on_shard: OnShard) -> PoolRows:
    """The rows with status ok, in dataset order, with what the selection needs.

    root: folder at which relative paths of the job start. on_shard: called with (shards read, shards, unit). Raises
    `ConfigError` for a row of select.keep or select.drop that does not exist or cannot be kept.
    """
    reader = ShardReader(inputs, select, root)
    rows_S = [record.rows or 0 for record in reader.source.shards()]
    start_S = np.concatenate([[0], np.cumsum(rows_S)])[:-1].astype(np.int64)
    columns: Columns = {}
    filled = 0
    for shard, start in enumerate(start_S.tolist()):
        on_shard(shard, len(rows_S), "shards read")
        part = reader.read(shard, start)
        columns = columns or _allocated(part, sum(rows_S))
        for name, values in part.items():
            columns[name][filled : filled + len(values)] = values
        filled += len(part["number"])
    for named in (reader.keep, reader.drop):
        if named is not None:
            named.check_complete(sum(rows_S))
    columns = {name: values[:filled] for name, values in columns.items()}
    ids = reader.ids if select.needs.features else None
    pool = _pool(columns, list(reader.codes), inputs, _ReadIds(reader.source, start_S, columns["number"], ids))
    return PoolRows(pool, columns["number"], start_S, reader.source, columns.get("keep"), columns.get("drop"))


def subset_table(rows: PoolRows, selection: Selection) -> pa.Table:
    """The selected rows in pool order, as a subset artifact stores them."""
    index_M = selection.index_M
    shard_M, row_M = rows.positions(index_M)
    cluster_M = pa.nulls(len(index_M), pa.int32())
    if rows.pool.cluster_N is not None:
        cluster_M = pa.array(rows.pool.cluster_N[index_M], pa.int32(), mask=rows.pool.cluster_N[index_M] < 0)
    names = pa.array(rows.pool.source_names, pa.string())
    return pa.Table.from_arrays(
        [
            read_ids(rows.source, shard_M, row_M),
            names.take(pa.array(rows.pool.source_N[index_M])),
            cluster_M,
            pa.array(shard_M, pa.int32()),
            pa.array(row_M, pa.int32()),
            pa.array(selection.score_M, pa.float32(), from_pandas=True),
            pa.array(selection.probability_M, pa.float32(), from_pandas=True),
        ],
        schema=SUBSET,
    )


def shard_and_row(start_S: Int64, number_M: Int64) -> tuple[Int64, Int64]:
    """(shard, row in the shard) of row numbers of the dataset."""
    shard_M = np.searchsorted(start_S, number_M, side="right") - 1
    return shard_M, number_M - start_S[shard_M]


def read_ids(source: Artifact, shard_M: Int64, row_M: Int64) -> pa.ChunkedArray:
    """Example ids at these positions, which ascend."""
    shards, chunks = source.shards(), [pa.array([], pa.string())]
    for shard, at_K in rows_by_group(shard_M).items():
        ids = source.read_file(shards[shard].path, ["example_id"])["example_id"]
        chunks.append(ids.take(pa.array(row_M[at_K])).combine_chunks())
    return pa.chunked_array(chunks)


@dataclass(frozen=True)
class _ReadIds:
    """Example ids of rows of a pool: from `ids` if they are kept in memory, else from the shards."""

    source: Artifact
    start_S: Int64
    number_N: Integers
    ids: Sequence[str] | None

    def __call__(self, index_M: Int64) -> list[str]:
        if self.ids is not None:
            return [self.ids[row] for row in index_M.tolist()]
        shard_M, row_M = shard_and_row(self.start_S, self.number_N[index_M].astype(np.int64))
        order_M = np.argsort(shard_M, kind="stable")
        ids_M = np.empty(len(index_M), object)
        ids_M[order_M] = read_ids(self.source, shard_M[order_M], row_M[order_M]).to_pylist()
        return ids_M.tolist()


def _pool(columns: Columns, names: list[str], inputs: Mapping[str, Artifact], read_ids: ReadIds) -> Pool:
    grouped = "cluster" in columns
    return Pool(
        source_names=names,
        source_N=columns["source"],
        cluster_N=columns.get("cluster"),
        group_by=inputs["clusters"].facts(ClustersFacts).group_by if grouped else "source",
        score_N=columns.get("score"),
        prefix_N=columns.get("prefix"),
        read_ids=read_ids,
        target_tokens_N=columns.get("target_tokens"),
        weight_N=columns.get("weight"),
        feature_ND=columns.get("feature"),
    )


def _allocated(part: Columns, rows: int) -> Columns:
    """Columns for all rows, of the types of a part; row numbers in 32 bits where they fit."""
    if "feature" in part:
        try:
            check_size(rows, part["feature"].shape[1])
        except ValueError as error:
            raise ConfigError(f"select.method: {error}") from error
    columns = {name: np.empty((rows, *values.shape[1:]), values.dtype) for name, values in part.items()}
    if rows < 2**31:
        columns["number"] = np.empty(rows, np.int32)
    return columns
