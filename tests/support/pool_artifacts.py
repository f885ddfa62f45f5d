"""Complete artifacts that hold given rows: what a selector reads, written without Ray and without training."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from s2l_ray.artifacts.execution import (
    ClusterExecution,
    EmbedExecution,
    EvaluateExecution,
    Execution,
    PrepareExecution,
    ScoreExecution,
    SelectExecution,
    Settings,
    TrainExecution,
)
from s2l_ray.artifacts.facts import (
    CheckpointsFacts,
    ClustersFacts,
    Counts,
    DatasetFacts,
    Facts,
    SubsetFacts,
    TrajectoriesFacts,
)
from s2l_ray.artifacts.manifest import Artifact, Manifest, write_manifest
from s2l_ray.artifacts.schemas import CLUSTERS, OK, SUBSET, TOKENS, shard_path, tokens_path, trajectories_schema
from s2l_ray.artifacts.tables import FileRecord, write_table
from s2l_ray.core.training.records import CheckpointRecord

SETTINGS: dict[str, Settings] = {
    "dataset": PrepareExecution(1000),
    "task": PrepareExecution(1000),
    "embeddings": EmbedExecution(32, 1, 0.0),
    "checkpoints": TrainExecution(1, 0.0, 1, 8, "ddp", "auto", False),
    "trajectories": ScoreExecution(1000, "auto", 1, 0.0),
    "clusters": ClusterExecution("torch", 1, 0.0),
    "subset": SelectExecution(),
    "target": TrainExecution(2, 0.5, 1, 8, "ddp", "auto", False),
    "evaluation": EvaluateExecution(1000, "auto", 1, 0.0, "transformers", 8, 8),
}
ROW_TOKENS = 5


@dataclass(frozen=True)
class PoolRow:
    """One example with the values that selectors read. cluster: None if it has none."""

    example_id: str
    source: str = "a"
    status: str = OK
    losses: Sequence[float] = (1.0, 0.5)
    cluster: int | None = 0


Shards = Sequence[Sequence[PoolRow]]


def write_artifact(
    uri: str,
    kind: str,
    tables: Sequence[pa.Table],
    facts: Facts,
    inputs: Mapping[str, str] | None = None,
    extra: Sequence[FileRecord] = (),
    seconds: float | None = None,
) -> Artifact:
    """A complete artifact with one table a shard, and extra files, built in so many seconds."""
    path = tokens_path if kind == "dataset" else shard_path
    files = [write_table(uri, path(number), table) for number, table in enumerate(tables)]
    rows = sum(len(table) for table in tables)
    manifest = Manifest(
        kind=kind,
        version=1,
        fingerprint=uri.rsplit("/", 1)[-1],
        inputs=dict(inputs or {}),
        identity={},
        config={},
        execution=Execution(SETTINGS[kind], {}),
        files=[*files, *extra],
        counts=Counts(rows, rows),
        facts=facts,
        timings={} if seconds is None else {"seconds": seconds},
    )
    return write_manifest(uri, manifest)


def write_dataset(uri: str, shards: Shards, vocab_size: int = 300) -> Artifact:
    """A dataset of these rows, each of `ROW_TOKENS` tokens, without text."""
    statuses = Counter(row.status for rows in shards for row in rows)
    by_source = Counter(row.source for rows in shards for row in rows)
    total = sum(statuses.values())
    tokens = {"input_ids": list(range(ROW_TOKENS)), "target_spans": [1, ROW_TOKENS]}
    tables = [
        pa.Table.from_pylist(
            [{"example_id": row.example_id, "source": row.source, "status": row.status, **tokens} for row in rows],
            schema=TOKENS,
        )
        for rows in shards
    ]
    facts = DatasetFacts(
        dict(statuses),
        dict(by_source),
        ROW_TOKENS * total,
        (ROW_TOKENS - 1) * total,
        0,
        ROW_TOKENS,
        len(shards),
        vocab_size,
    )
    return write_artifact(uri, "dataset", tables, facts)


def write_checkpoints(uri: str, steps: Sequence[int], inputs: Mapping[str, str] | None = None) -> Artifact:
    """Checkpoints without weights."""
    records = tuple(CheckpointRecord(step, float(step), step, 0.0, None, None) for step in steps)
    return write_artifact(uri, "checkpoints", [], CheckpointsFacts(records, 2.0, 1.0), inputs)


def write_trajectories(
    uri: str, shards: Shards, steps: Sequence[int] = (0, 1), inputs: Mapping[str, str] | None = None
) -> Artifact:
    """Trajectories of these rows."""
    schema = trajectories_schema(len(steps), ())
    tables = [
        pa.Table.from_pylist(
            [
                {
                    "example_id": row.example_id,
                    "source": row.source,
                    "target_tokens": ROW_TOKENS - 1,
                    "status": row.status,
                    "losses": list(row.losses),
                }
                for row in rows
            ],
            schema=schema,
        )
        for rows in shards
    ]
    ok_by_source = Counter(row.source for rows in shards for row in rows if row.status == OK)
    return write_artifact(uri, "trajectories", tables, TrajectoriesFacts(list(steps), [], dict(ok_by_source)), inputs)


def write_clusters(
    uri: str,
    shards: Shards,
    group_by: str = "source",
    inputs: Mapping[str, str] | None = None,
    centroids: pa.Table | None = None,
) -> Artifact:
    """Clusters of these rows."""
    tables = [
        pa.Table.from_pylist(
            [{"example_id": row.example_id, "cluster": row.cluster, "distance": 0.0} for row in rows], schema=CLUSTERS
        )
        for rows in shards
    ]
    extra = [] if centroids is None else [write_table(uri, "centroids.parquet", centroids)]
    return write_artifact(uri, "clusters", tables, ClustersFacts(1, 0, 0.0, group_by, {}, 0.0), inputs, extra)


def write_subset(
    uri: str, shards: Shards, selected: Sequence[int], inputs: Mapping[str, str], method: str = "random"
) -> Artifact:
    """A subset of the rows at these positions in the pool."""
    rows = [(shard, row, one) for shard, rows in enumerate(shards) for row, one in enumerate(rows)]
    table = pa.Table.from_pylist(
        [
            {
                "example_id": one.example_id,
                "source": one.source,
                "cluster": one.cluster if "clusters" in inputs else None,
                "shard": shard,
                "row": row,
            }
            for shard, row, one in (rows[position] for position in selected)
        ],
        schema=SUBSET,
    )
    ok = sum(one.status == OK for _, _, one in rows)
    facts = SubsetFacts(method, len(selected), ok, ok, dict(Counter(table["source"].to_pylist())))
    return write_artifact(uri, "subset", [table], facts, inputs)
