"""The pool as selectors read it: columns of complete artifacts, named by a selector's `needs`.

Trajectories are read where they are an input, since they hold status and source without any text; else the dataset.
Shards are streamed; 16 bytes a row are kept, and ids are read for selected rows only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.artifacts.facts import ClustersFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import OK, SUBSET, shard_path
from s2l_ray.core.arrays import Bool, Float32, Int32
from s2l_ray.core.selection.pool import Pool, Selection
from s2l_ray.core.selection.registry import Need

OnShard = Callable[[int, int, str], object]


@dataclass(frozen=True)
class PoolRows:
    """A pool with the position (shard, row in shard) of every row; `source` is the artifact the rows were read from."""

    pool: Pool
    shard_N: Int32
    row_N: Int32
    source: Artifact


@dataclass(frozen=True)
class _Part:
    """The rows of one shard that belong to the pool."""

    row_B: Int32
    source_B: pa.DictionaryArray
    cluster_B: Int32 | None
    losses_BT: Float32 | None


def read_pool(inputs: Mapping[str, Artifact], needs: Sequence[Need], on_shard: OnShard) -> PoolRows:
    """Rows with status ok in dataset order; where clusters are needed, those that have one.

    on_shard: called with (shards read, shards, unit).
    """
    source = inputs.get("trajectories", inputs["dataset"])
    clusters = inputs["clusters"] if "clusters" in needs else None
    shards = source.shards()
    columns = ["source", "status", *(["losses"] if "losses" in needs else [])]
    parts = []
    for number, record in enumerate(shards):
        on_shard(number, len(shards), "shards read")
        assigned = clusters.read_file(shard_path(number), ["cluster"]) if clusters else None
        parts.append(_read_part(source.read_file(record.path, columns), assigned))
    encoded = [part.source_B for part in parts]
    sources = pa.chunked_array(encoded, pa.dictionary(pa.int32(), pa.string())).unify_dictionaries().combine_chunks()
    pool = Pool(
        source_names=sources.dictionary.to_pylist(),
        source_N=sources.indices.to_numpy(),
        cluster_N=_joined([part.cluster_B for part in parts if part.cluster_B is not None]) if clusters else None,
        losses_NT=np.concatenate([part.losses_BT for part in parts if part.losses_BT is not None])
        if "losses" in needs
        else None,
        group_by=clusters.facts(ClustersFacts).group_by if clusters else "source",
    )
    shard_N = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part.row_B) for part in parts])
    return PoolRows(pool, shard_N, _joined([part.row_B for part in parts]), source)


def subset_table(rows: PoolRows, selection: Selection) -> pa.Table:
    """The selected rows in pool order, as a subset artifact stores them."""
    index_M = selection.index_M
    shard_M, row_M = rows.shard_N[index_M], rows.row_N[index_M]
    cluster_M = rows.pool.cluster_N[index_M] if rows.pool.cluster_N is not None else None
    names = pa.array(rows.pool.source_names, pa.string())
    return pa.Table.from_arrays(
        [
            _read_ids(rows.source, shard_M, row_M),
            names.take(pa.array(rows.pool.source_N[index_M])),
            pa.array(cluster_M, pa.int32()) if cluster_M is not None else pa.nulls(len(index_M), pa.int32()),
            pa.array(shard_M, pa.int32()),
            pa.array(row_M, pa.int32()),
            pa.array(selection.score_M, pa.float32(), from_pandas=True),
        ],
        schema=SUBSET,
    )


def _read_part(table: pa.Table, clusters: pa.Table | None) -> _Part:
    """The part of a shard, from its rows and, where clusters are needed, their clusters."""
    kept_B: Bool = pc.equal(table["status"], OK).to_numpy()
    cluster_B = None
    if clusters is not None:
        cluster_B = clusters["cluster"].fill_null(-1).to_numpy()
        kept_B = kept_B & (cluster_B >= 0)
        cluster_B = cluster_B[kept_B]
    losses_BT = None
    if "losses" in table.column_names:
        losses = table["losses"].filter(pa.array(kept_B)).combine_chunks()
        losses_BT = np.asarray(losses.flatten(), np.float32).reshape(-1, losses.type.list_size)
    source_B = table["source"].filter(pa.array(kept_B)).combine_chunks().dictionary_encode()
    return _Part(np.flatnonzero(kept_B).astype(np.int32), source_B, cluster_B, losses_BT)


def _read_ids(source: Artifact, shard_M: Int32, row_M: Int32) -> pa.ChunkedArray:
    chunks = [pa.array([], pa.string())]
    shards = source.shards()
    for shard in np.unique(shard_M).tolist():
        ids = source.read_file(shards[shard].path, ["example_id"])["example_id"]
        chunks.append(ids.take(pa.array(row_M[shard_M == shard])).combine_chunks())
    return pa.chunked_array(chunks)


def _joined(parts: Sequence[Int32]) -> Int32:
    return np.concatenate([np.zeros(0, np.int32), *parts])
