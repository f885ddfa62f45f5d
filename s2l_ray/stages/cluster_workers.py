"""Workers of `cluster`: the fit on one node, and the nearest centroid for every row of a shard.

Workers take plain values and run without Ray in tests.
"""

import json
from collections import Counter
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.artifacts.execution import ClusterExecution
from s2l_ray.artifacts.facts import EmbeddingsFacts, TrajectoriesFacts
from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.artifacts.schemas import CLUSTERS, OK
from s2l_ray.artifacts.tables import FileRecord, notes_of, read_table, write_table
from s2l_ray.config.sections import Cluster as ClusterConfig
from s2l_ray.core.arrays import Float32, Int64, Objects
from s2l_ray.errors import S2LError
from s2l_ray.runtime.worker_process import report_progress, working
from s2l_ray.stages.build import ShardUnit

CENTROIDS = "centroids.parquet"
WHOLE_POOL = ""


@dataclass(frozen=True)
class Features:
    """The vectors to cluster: of a column of fixed-size lists, the values at the positions `columns_T`."""

    artifact: Artifact
    column: str
    columns_T: list[int]
    ok_by_source: dict[str, int]

    def names(self) -> tuple[str, ...]:
        """The columns of a shard that clustering reads."""
        return ("example_id", "source", "status", self.column)

    def ok_rows(self, table: pa.Table, group_by: str) -> tuple[Float32, Objects]:
        """Vectors and groups of a shard's rows with status ok."""
        kept = table.filter(pc.equal(table["status"], OK))
        lists = kept[self.column].combine_chunks()
        x_BT = np.asarray(lists.flatten()).reshape(-1, lists.type.list_size)[:, self.columns_T]
        source_B = np.asarray(kept["source"].to_numpy(zero_copy_only=False), object)
        return x_BT, source_B if group_by == "source" else np.full(len(kept), WHOLE_POOL, object)


def features_of(artifact: Artifact, settings: ClusterConfig) -> Features:
    """The features in the artifact that `cluster.features` names."""
    if settings.features == "embeddings":
        embedded = artifact.facts(EmbeddingsFacts)
        return Features(artifact, "embedding", list(range(embedded.dimensions)), embedded.ok_by_source)
    scored = artifact.facts(TrajectoriesFacts)
    return Features(artifact, "losses", settings.columns(scored.steps), scored.ok_by_source)


@dataclass(frozen=True)
class AssignedShard:
    """The unit's file, rows by cluster id, and the sum of their squared distances to the centroids."""

    file: FileRecord
    sizes: dict[int, int]
    inertia: float


def fit(
    folder: str, features: str, settings: ClusterConfig, execution: ClusterExecution, key: dict[str, str]
) -> FileRecord:
    """Read the features, fit each group, store the centroids. Runs on one node."""
    from s2l_ray.core.kmeans.fit import KMeansOptions, fit_kmeans

    with working():
        x_NT, source_N = _read_matrix(features_of(open_artifact(features), settings), settings)
        options = KMeansOptions(
            iterations=settings.iterations,
            restarts=settings.restarts,
            backend=execution.backend,
            sample_per_cluster=settings.sample_per_cluster,
            sample_iterations=settings.sample_iterations,
        )
        rows_by_group = index_by_group(source_N)
        group_K: list[str] = []
        centroids = []
        for number, (group, own_M) in enumerate(rows_by_group.items()):
            passes = "passes" + (f" (group {number + 1} of {len(rows_by_group)})" if group else "")
            fitted = fit_kmeans(
                x_NT[own_M],
                settings.k,
                seed=settings.seed,
                options=options,
                workers=execution.workers,
                gpu=execution.gpus > 0,
                on_pass=partial(report_progress, unit=passes),
            )
            centroids.append(fitted.centroids_KT)
            group_K += [group] * len(fitted.centroids_KT)
        if not group_K:
            raise S2LError(f"{features}: no row has status ok; `s2l show` it to see why rows were rejected")
        return write_table(folder, CENTROIDS, _centroids_table(group_K, np.concatenate(centroids)), key)


def _centroids_table(group_K: list[str], centroid_KT: Float32) -> pa.Table:
    values = pa.array(np.ascontiguousarray(centroid_KT, np.float32).reshape(-1))
    return pa.table(
        {
            "source": pa.array(group_K, pa.string()),
            "cluster": pa.array(np.arange(len(group_K), dtype=np.int32)),
            "centroid": pa.FixedSizeListArray.from_arrays(values, centroid_KT.shape[1]),
        }
    )


def _read_matrix(features: Features, settings: ClusterConfig) -> tuple[Float32, Objects]:
    """x_NT and the group of every row, for the rows with status ok or a seeded sample of them."""
    by_source = features.ok_by_source
    by_group = by_source if settings.group_by == "source" else {WHOLE_POOL: sum(by_source.values())}
    sampled = fit_rows(by_group, settings.max_fit_rows, settings.k, settings.seed)
    seen = dict.fromkeys(by_group, 0)
    parts, groups = [], []
    shards = len(features.artifact.shards())
    for shard, table in enumerate(features.artifact.read_tables(features.names())):
        report_progress(shard, shards, "shards read")
        x_BT, group_B = features.ok_rows(table, settings.group_by)
        kept_B = np.zeros(len(x_BT), bool)
        for group, own_M in index_by_group(group_B).items():
            first, end = np.searchsorted(sampled[group], [seen[group], seen[group] + len(own_M)])
            kept_B[own_M[sampled[group][first:end] - seen[group]]] = True
            seen[group] += len(own_M)
        parts.append(x_BT[kept_B])
        groups.append(group_B[kept_B])
    return np.concatenate(parts), np.concatenate(groups)


def index_by_group(group_N: Objects) -> dict[str, Int64]:
    """Ascending positions of the rows of each group, by name, from one sort for any number of groups."""
    encoded = pa.array(group_N, pa.string()).dictionary_encode()
    code_N, names = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    order_N = np.argsort(code_N, kind="stable")
    parts = np.split(order_N, np.flatnonzero(np.diff(code_N[order_N])) + 1)
    return dict(sorted(zip(names, parts, strict=True))) if names else {}


def fit_rows(by_group: dict[str, int], max_rows: int, k: int, seed: int) -> dict[str, Int64]:
    """Positions, ascending, of the rows to fit on inside each group: all, or about `max_rows` in all, in proportion.

    A group keeps at least k of its rows, so that a small one can have k clusters.
    """
    total = sum(by_group.values())
    if total <= max_rows:
        return {group: np.arange(rows) for group, rows in by_group.items()}
    wanted = {group: min(rows, max(k, max_rows * rows // total)) for group, rows in by_group.items()}
    return {
        group: np.sort(np.random.default_rng([seed, position]).choice(by_group[group], wanted[group], replace=False))
        for position, group in enumerate(sorted(by_group))
    }


class AssignWorker:
    """Assign the rows of a shard to the nearest centroid of their group, on the CPU: the same bits on any node."""

    def __init__(self, folder: str, features: str, settings: ClusterConfig, centroids: FileRecord) -> None:
        self._folder = folder
        self._features = features_of(open_artifact(features), settings)
        self._group_by = settings.group_by
        table = read_table(folder, centroids)
        group_K = np.asarray(table["source"].to_pylist(), object)
        centroid_KT = np.asarray(table["centroid"].combine_chunks().flatten()).reshape(len(table), -1)
        id_K = table["cluster"].to_numpy()
        self._groups = {group: (id_K[own_M], centroid_KT[own_M]) for group, own_M in index_by_group(group_K).items()}

    def __call__(self, unit: ShardUnit) -> AssignedShard:
        from s2l_ray.core.kmeans.fit import assign_clusters

        table = self._features.artifact.read_file(unit.name, self._features.names())
        x_BT, group_B = self._features.ok_rows(table, self._group_by)
        cluster_B, distance_B = np.empty(len(x_BT), np.int32), np.empty(len(x_BT), np.float32)
        for group, own_M in index_by_group(group_B).items():
            id_K, centroid_KT = self._groups[group]
            label_M, distance_B[own_M] = assign_clusters(x_BT[own_M], centroid_KT, gpu=False)
            cluster_B[own_M] = id_K[label_M]
        ok_N = pc.equal(table["status"], OK).combine_chunks()
        clusters, distances = (
            pc.replace_with_mask(pa.nulls(len(table), values.type), ok_N, values)
            for values in (pa.array(cluster_B), pa.array(distance_B))
        )
        assigned = pa.Table.from_arrays([table["example_id"], clusters, distances], schema=CLUSTERS)
        sizes = dict(sorted(Counter(cluster_B.tolist()).items()))
        inertia = float(np.square(distance_B.astype(np.float64)).sum())
        # stored with the file, so that a resume does not read every shard again to count
        notes = {"sizes": json.dumps(sizes), "inertia": repr(inertia)}
        return AssignedShard(write_table(self._folder, unit.name, assigned, unit.key, notes), sizes, inertia)


def assigned_shard(folder: str, file: FileRecord) -> AssignedShard:
    """The result of a shard that was assigned before."""
    notes = notes_of(read_table(folder, file, ["cluster"]))
    sizes = {int(cluster_id): size for cluster_id, size in json.loads(notes["sizes"]).items()}
    return AssignedShard(file, sizes, float(notes["inertia"]))
