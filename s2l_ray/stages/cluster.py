"""cluster: trajectories or embeddings, the features -> clusters of rows with similar features.

`centroids.parquet` has one row a cluster; each shard holds cluster and distance of the rows of the same shard of
features. The fit runs on one node, the only one that holds the N x T matrix; a pool beyond `cluster.max_fit_rows` is
fitted on a seeded sample. Assignment runs shard by shard. Cluster ids are unique over the whole pool: those of a source
follow those of the source before it, by name. Only rows with status ok take part.
"""

import time
from importlib.util import find_spec

from s2l_ray.artifacts.execution import ClusterExecution
from s2l_ray.artifacts.facts import ClustersFacts, Counts, TrajectoriesFacts
from s2l_ray.artifacts.schemas import CLUSTERS
from s2l_ray.artifacts.tables import FileRecord, find_complete_unit, read_table
from s2l_ray.config.sections import Config
from s2l_ray.runtime.contracts import Cluster, PoolOptions, ResourceRequest
from s2l_ray.stages.build import Build, Product, ShardUnit, cpus_per_actor, memory_request, total_counts
from s2l_ray.stages.cluster_workers import (
    CENTROIDS,
    AssignedShard,
    AssignWorker,
    Features,
    assigned_shard,
    features_of,
    fit,
)

ClusterBuild = Build[ClusterExecution]

MEMORY_HINT = "use a node with more memory"
# bytes a row of the fit: the matrix as it is read, joined and split by group, and other columns
COPIES, OTHER_BYTES = 4, 64


def execution(config: Config, cluster: Cluster) -> ClusterExecution:
    """Resolve the backend, which decides the last bits of the centroids."""
    wanted = config.resources.cluster
    has_cuml = cluster.gpus > 0 and find_spec("cuml") is not None
    backend = ("cuml" if has_cuml else "torch") if wanted.backend == "auto" else wanted.backend
    return ClusterExecution(backend, wanted.workers, 1.0 if backend == "cuml" or cluster.gpus else 0.0)


def resources(build: ClusterBuild) -> ResourceRequest:
    features = _features(build)
    rows = min(features.artifact.manifest.counts.kept, build.config.cluster.max_fit_rows)
    row_bytes = COPIES * 4 * len(features.columns_T) + OTHER_BYTES
    memory = memory_request(build.cluster, rows * row_bytes)
    return ResourceRequest("cluster", MEMORY_HINT, 1, cpus_per_actor(build.cluster), build.execution.gpus, memory)


def cluster(build: ClusterBuild) -> Product:
    """Fit the centroids, unless they are stored, then assign every row to a cluster."""
    started = time.monotonic()
    fitted = _fit(build)
    fit_seconds = time.monotonic() - started
    centroids = read_table(build.folder, fitted, ["source", "cluster"])
    ids_by_group: dict[str, list[int]] = {}
    for group, cluster_id in zip(centroids["source"].to_pylist(), centroids["cluster"].to_pylist(), strict=True):
        ids_by_group.setdefault(group, []).append(cluster_id)
    for group, ids in sorted(ids_by_group.items()):
        if len(ids) < build.config.cluster.k:
            where = f"source {group}" if group else "the pool"
            build.note(f"{where} has only {len(ids)} rows to cluster: K = {len(ids)} there")
    shards = _assign(build, fitted)
    sizes = total_counts(shard.sizes for shard in shards)
    read, kept = sum(shard.file.rows or 0 for shard in shards), sum(sizes.values())
    facts = ClustersFacts(
        clusters=len(centroids),
        empty_clusters=len(centroids) - len(sizes),
        inertia=sum(shard.inertia for shard in shards),
        group_by=build.config.cluster.group_by,
        cluster_sizes={
            group or "the whole pool": [sizes.get(cluster_id, 0) for cluster_id in ids]
            for group, ids in ids_by_group.items()
        },
        fit_seconds=round(fit_seconds, 3),
        steps=_steps(build),
    )
    reason = "no_embedding" if build.config.cluster.features == "embeddings" else "no_trajectory"
    counts = Counts(read, kept, {reason: read - kept} if read > kept else {})
    return Product([fitted, *(shard.file for shard in shards)], counts, facts, CLUSTERS)


def _features(build: ClusterBuild) -> Features:
    return features_of(build.inputs[build.config.cluster.features], build.config.cluster)


def _steps(build: ClusterBuild) -> list[int]:
    """Optimizer steps of the checkpoints that form the trajectories."""
    if build.config.cluster.features == "embeddings":
        return []
    steps = build.inputs["trajectories"].facts(TrajectoriesFacts).steps
    return [steps[column] for column in _features(build).columns_T]


def _fit(build: ClusterBuild) -> FileRecord:
    features = _features(build).artifact.manifest
    key = {features.kind: features.fingerprint, "backend": build.execution.backend}
    stored = find_complete_unit(build.folder, CENTROIDS, key)
    if stored is not None:
        return stored
    name = f"clustering {features.counts.kept} {features.kind}"
    build.note(name)
    arguments = (build.folder, build.inputs[features.kind].uri, build.config.cluster, build.execution, key)
    return build.run_on_one_node(name, MEMORY_HINT, resources(build), fit, *arguments)


def _assign(build: ClusterBuild, fitted: FileRecord) -> list[AssignedShard]:
    """Assign the shards that are missing; results in order of the shards, so that sums do not depend on timing."""
    features = _features(build).artifact

    def find(unit: ShardUnit) -> AssignedShard | None:
        record = find_complete_unit(build.folder, unit.name, unit.key)
        return assigned_shard(build.folder, record) if record is not None else None

    return build.run_missing_units(
        [
            ShardUnit(shard, {"centroids": fitted.sha256, "shard": record.sha256})
            for shard, record in enumerate(features.shards())
        ],
        find,
        AssignWorker,
        PoolOptions("assigning clusters", MEMORY_HINT),
        "shards assigned",
        rows_of=lambda shard: shard.file.rows,
        folder=build.folder,
        features=features.uri,
        settings=build.config.cluster,
        centroids=fitted,
    )
