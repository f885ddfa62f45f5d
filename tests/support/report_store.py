"""A root with complete artifacts of every kind that a report reads, over rows of two sources, written without Ray."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.artifacts.facts import CheckpointsFacts
from s2l_ray.artifacts.manifest import Artifact, write_manifest
from s2l_ray.artifacts.schemas import TRAINING_TABLE
from s2l_ray.artifacts.tables import write_table
from s2l_ray.core.training.records import CheckpointRecord
from s2l_ray.reporting.collect import collect
from s2l_ray.reporting.pool import read_columns
from s2l_ray.reporting.records.report import Report
from s2l_ray.reporting.trajectories import flag_rows
from tests.support.pool_artifacts import PoolRow, write_artifact, write_clusters, write_subset, write_trajectories
from tests.support.small_store import DATASET_NAME, write_store

STEPS = (0, 10, 20, 30)
SHARD_SIZE = 50
CLUSTERS = 3
INJECTED = "</script><script>document.title='injected'</script><img src=x onerror=alert(1)>"


@dataclass(frozen=True)
class ReportStore:
    """The artifacts by kind, and the pool in dataset order."""

    root: Path
    parts: dict[str, Artifact]
    pool: list[PoolRow]
    selected: list[int]


def write_report_store(root: Path, rows: int = 120) -> ReportStore:
    """Write the root. Every third row is selected; one row and the name of its source hold markup."""
    raw = [_raw_row(number) for number in range(rows)]
    dataset = write_store(root, raw, SHARD_SIZE).dataset
    ids = dataset.read_table(["example_id"])["example_id"].to_pylist()
    rng = np.random.default_rng(0)
    pool = [
        PoolRow(ids[number], raw[number]["source"], losses=_losses(number, rng), cluster=number % CLUSTERS)
        for number in range(rows)
    ]
    shards = [pool[start : start + SHARD_SIZE] for start in range(0, rows, SHARD_SIZE)]
    selected = list(range(0, rows, 3))
    names = {"dataset": DATASET_NAME}
    parts = {"dataset": dataset}
    parts["checkpoints"] = _write_checkpoints(f"{root}/checkpoints/{1:012x}", dict(names))
    names["checkpoints"] = f"{1:012x}"
    parts["trajectories"] = write_trajectories(f"{root}/trajectories/{2:012x}", shards, STEPS, dict(names))
    scored = {"dataset": DATASET_NAME, "trajectories": f"{2:012x}"}
    parts["clusters"] = write_clusters(f"{root}/clusters/{3:012x}", shards, "none", {"trajectories": f"{2:012x}"})
    inputs = {**scored, "clusters": f"{3:012x}"}
    uri = f"{root}/subset/{4:012x}"
    subset = write_subset(uri, shards, selected, inputs, "s2l")
    select = {"method": "s2l", "budget": len(selected)}
    config = {"run": "small", "data": {"root": "."}, "cluster": {"features": "trajectories"}, "select": select}
    parts["subset"] = write_manifest(uri, replace(subset.manifest, config=config))
    return ReportStore(root, parts, pool, selected)


def collected(parts: Mapping[str, Artifact], *, text: bool = True) -> Report:
    """The report of artifacts."""
    columns = read_columns(parts)
    return collect(parts, columns, flag_rows(columns), "small", text=text)


def _raw_row(number: int) -> dict[str, Any]:
    if number == 7:
        return {"instruction": INJECTED, "output": INJECTED, "source": f"<b>{INJECTED}"}
    return {"instruction": f"What is {number} + 1?", "output": f"It is {number + 1}.", "source": "sums"}


def _losses(number: int, rng: np.random.Generator) -> list[float]:
    """A falling trajectory; that of row 5 stays high, that of row 9 rises."""
    base = np.asarray([3.0, 1.5, 1.0, 0.8]) + rng.normal(0, 0.05, 4)
    if number == 5:
        base = np.asarray([9.0, 8.9, 8.8, 8.7])
    if number == 9:
        base = np.asarray([1.0, 1.2, 1.6, 2.5])
    return [float(np.float32(value)) for value in base]


def _write_checkpoints(uri: str, inputs: dict[str, str]) -> Artifact:
    steps = list(range(1, STEPS[-1] + 1))
    training = pa.table(
        {"step": steps, "loss": [3.0 - step / 20 for step in steps], "learning_rate": [1e-3 / step for step in steps]}
    )
    records = tuple(CheckpointRecord(step, step / 30, step * 8, 1e-3, None, 3.0 - step / 15) for step in STEPS)
    facts = CheckpointsFacts(records, 2.95, 1.5, 3.0, 1.0)
    return write_artifact(uri, "checkpoints", [], facts, inputs, [write_table(uri, TRAINING_TABLE, training)])
