"""select: what a selector names as its inputs -> the subset.

In: the dataset, and for methods that need them its trajectories and clusters. Out: `shard-00000.parquet`, one row a
pick: a pointer (shard, row) into the dataset, with the cluster and the score that chose it. Selection runs in one
actor, which reads columns and no text.
"""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.artifacts.schemas import OK, SUBSET, shard_path
from s2l_ray.artifacts.tables import FileRecord, write_table
from s2l_ray.config.sections import Config, rows_of
from s2l_ray.core.selection.registry import SELECTORS, Draw
from s2l_ray.core.selection.registry import Pool as SelectorPool
from s2l_ray.errors import ConfigError
from s2l_ray.runtime.contracts import Cluster, Progress, ResourceRequest
from s2l_ray.runtime.worker_process import track
from s2l_ray.stages.build import Build, Product, Stage, cpus_each, in_one_place, memory_asked

KIND = "subset"
ROW_BYTES = 500


def execution(config: Config, cluster: Cluster) -> dict[str, Any]:
    """Selection has one way to run."""
    return {}


def needs(build: Build) -> ResourceRequest:
    """Room for the columns of the pool on one node: ids and sources as Python's text, and a few numbers a row."""
    memory = memory_asked(build.cluster, build.inputs["dataset"].manifest.facts["ok"] * ROW_BYTES)
    return ResourceRequest("select", "make the pool smaller (data.limit)", 1, cpus_each(build.cluster), memory=memory)


def select(build: Build) -> Stage:
    """Pick the subset."""
    method, budget = build.config.select.method, budget_of(build)
    yield Progress(KIND, 0, budget, unit="rows", note=f"picking {budget} rows by {method}")
    picked = yield from in_one_place(
        build,
        pick,
        build.folder,
        {kind: artifact.uri for kind, artifact in build.inputs.items()},
        build.config.select.model_dump() | {"budget": budget},
        what=f"selecting by {method}",
        lower="use a node with more memory",
        place=needs(build),
    )
    yield Progress(KIND, picked["picked"], budget, unit="rows")
    record = FileRecord(**picked["file"])
    counts = {"read": picked["pool"], "kept": picked["picked"], "set_aside": {"not_selected": picked["pool"] - budget}}
    rows_ok = build.inputs["dataset"].manifest.facts["ok"]
    if picked["pool"] != rows_ok:
        yield Progress(KIND, warning=f"{method} picks from {picked['pool']} scored rows, the pool holds {rows_ok}")
    facts = {"method": method, "budget": budget, "pool": picked["pool"], "rows_ok": rows_ok}
    facts |= {"by_source": picked["by_source"], **picked["notes"]}
    return Product([record], counts=counts, facts=facts, schema=SUBSET)


def budget_of(build: Build) -> int:
    """The budget in rows. Raises `ConfigError` where the pool holds fewer."""
    kept = build.inputs["dataset"].manifest.facts["ok"]
    budget = rows_of(build.config.select.budget, kept)
    if not 0 < budget <= kept:
        wanted = build.config.select.budget
        remedy = f"set select.budget to at most {kept}" if budget else "raise select.budget"
        raise ConfigError(f"select.budget: {wanted} is {budget} rows of the {kept} with status ok; {remedy}")
    return budget


def pick(folder: str, inputs: dict[str, str], settings: dict[str, Any]) -> dict[str, Any]:
    """Read the columns, run the selector, put the subset. Runs in one actor."""
    columns = read_pool({kind: open_artifact(uri) for kind, uri in inputs.items()})
    draw = Draw(settings["budget"], settings["seed"], settings["min_cluster_size"], columns["group_by"])
    picked = SELECTORS[settings["method"]].select(make_pool(columns), draw)
    table = subset_table(columns, picked.index_M, picked.score_M)
    record = write_table(folder, shard_path(0), table)
    by_source = Counter(columns["source"][picked.index_M].tolist())
    return {
        "file": vars(record),
        "pool": len(columns["source"]),
        "picked": len(table),
        "by_source": dict(sorted(by_source.items())),
        "notes": dict(picked.notes),
    }


def read_pool(inputs: dict[str, Artifact]) -> dict[str, Any]:
    """Columns of the pool in the dataset's order: the rows with status ok; with clusters, those that have one."""
    parts: dict[str, list[Any]] = {name: [] for name in ("example_id", "source", "shard", "row", "cluster")}
    clusters = inputs.get("clusters")
    for shard, record in enumerate(track(inputs["dataset"].shards(), "shards read")):
        table = inputs["dataset"].read_file(record.path, ["example_id", "source", "status"])
        kept_N = np.asarray(table["status"]) == OK
        cluster_N = np.full(len(table), -1, np.int32)
        if clusters is not None:
            column = clusters.read_file(record.path, ["cluster"])["cluster"]
            cluster_N = column.fill_null(-1).to_numpy()
            kept_N &= cluster_N >= 0
        parts["example_id"].append(np.asarray(table["example_id"].to_pylist(), object)[kept_N])
        parts["source"].append(np.asarray(table["source"].to_pylist(), object)[kept_N])
        parts["shard"].append(np.full(int(kept_N.sum()), shard, np.int32))
        parts["row"].append(np.flatnonzero(kept_N).astype(np.int32))
        parts["cluster"].append(cluster_N[kept_N])
    columns: dict[str, Any] = {name: np.concatenate(values) for name, values in parts.items()}
    columns["has_clusters"] = clusters is not None
    columns["group_by"] = clusters.manifest.facts["group_by"] if clusters is not None else "source"
    return columns


def make_pool(columns: dict[str, Any]) -> SelectorPool:
    """The record that selectors take."""
    names, source_N = np.unique(columns["source"].astype(str), return_inverse=True)
    return SelectorPool(
        source_names=names.tolist(),
        source_N=source_N.astype(np.int32),
        label_N=columns["cluster"] if columns["has_clusters"] else None,
    )


def subset_table(columns: dict[str, Any], index_M: Any, score_M: Any) -> pa.Table:
    """The picks, in the order of the pool."""
    cluster_M = columns["cluster"][index_M]
    arrays = [
        pa.array(columns["example_id"][index_M], pa.string()),
        pa.array(columns["source"][index_M], pa.string()),
        pa.array(cluster_M, pa.int32(), mask=cluster_M < 0),
        pa.array(columns["shard"][index_M], pa.int32()),
        pa.array(columns["row"][index_M], pa.int32()),
        pa.array(score_M, pa.float32(), from_pandas=True),
    ]
    return pa.Table.from_arrays(arrays, schema=SUBSET)
