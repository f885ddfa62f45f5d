"""The pool of a report: one streaming pass over the shards, into columns of a fixed size a row.

N rows of the pool, B rows of a shard, T checkpoints
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import OK
from s2l_ray.catalog.pool_columns import target_tokens
from s2l_ray.core.arrays import Bool, Int32, Int64

Parts = Mapping[str, Artifact]
"""Complete artifacts of one job, by kind; the dataset always."""


@dataclass(frozen=True)
class PoolColumns:
    """The rows that have status ok or are selected, in dataset order. number_N: their row numbers in the dataset.

    start_S: row number of the first row of each shard. source_N: positions in `sources`. cluster_N: -1 for rows without
    a cluster; None without clusters.
    """

    start_S: Int64
    sources: list[str]
    number_N: Int64
    source_N: Int32
    tokens_N: Int32
    selected_N: Bool
    cluster_N: Int32 | None = None

    def __len__(self) -> int:
        return len(self.number_N)


@dataclass(frozen=True)
class _ShardColumns:
    """The columns of one shard."""

    number_B: Int64
    source_B: Int32
    tokens_B: Int32
    cluster_B: Int32 | None


def read_columns(parts: Parts) -> PoolColumns:
    """The columns of all shards. Trajectories are read where they exist, since they hold status and lengths."""
    start_S = first_rows(parts["dataset"])
    selected_M = selected_numbers(parts, start_S)
    codes: dict[str, int] = {}
    read = [_read_shard(parts, shard, start, selected_M, codes) for shard, start in enumerate(start_S.tolist())]
    number_N = np.concatenate([np.empty(0, np.int64), *(one.number_B for one in read)])
    clusters = [one.cluster_B for one in read if one.cluster_B is not None]
    return PoolColumns(
        start_S,
        list(codes),
        number_N,
        np.concatenate([np.empty(0, np.int32), *(one.source_B for one in read)]),
        np.concatenate([np.empty(0, np.int32), *(one.tokens_B for one in read)]),
        np.isin(number_N, selected_M),
        np.concatenate([np.empty(0, np.int32), *clusters]) if "clusters" in parts else None,
    )


def first_rows(artifact: Artifact) -> Int64:
    """The row number of the first row of each shard."""
    rows = [record.rows or 0 for record in artifact.shards()]
    return np.concatenate([[0], np.cumsum(rows)])[:-1].astype(np.int64)


def selected_numbers(parts: Parts, start_S: Int64) -> Int64:
    """Row numbers of the subset, in its order; none without a subset."""
    if "subset" not in parts:
        return np.empty(0, np.int64)
    table = parts["subset"].read_table(["shard", "row"])
    number_M: Int64 = start_S[table["shard"].to_numpy()] + table["row"].to_numpy()
    return number_M


def _read_shard(parts: Parts, shard: int, start: int, selected_M: Int64, codes: dict[str, int]) -> _ShardColumns:
    base = parts.get("trajectories", parts["dataset"])
    lengths = ["target_tokens"] if "trajectories" in parts else ["input_ids", "target_spans"]
    table = base.read_file(base.shards()[shard].path, ["source", "status", *lengths])
    number_B = start + np.arange(len(table))
    kept_B: Bool = pc.equal(table["status"], OK).to_numpy() | np.isin(number_B, selected_M)
    rows = table.filter(pa.array(kept_B))
    cluster_B = None
    if "clusters" in parts:
        clusters = parts["clusters"]
        column = clusters.read_file(clusters.shards()[shard].path, ["cluster"])["cluster"]
        cluster_B = column.fill_null(-1).to_numpy().astype(np.int32)[kept_B]
    tokens_B = target_tokens(rows).astype(np.int32)
    return _ShardColumns(number_B[kept_B], _codes(rows["source"], codes), tokens_B, cluster_B)


def _codes(names: pa.ChunkedArray, codes: dict[str, int]) -> Int32:
    """Positions of source names; new names are added to `codes`."""
    encoded = names.combine_chunks().dictionary_encode()
    known = [codes.setdefault(name, len(codes)) for name in encoded.dictionary.to_pylist()]
    code_B: Int32 = np.asarray([*known, 0], np.int32)[encoded.indices.to_numpy()]
    return code_B
