"""cluster: trajectories that move alike -> clusters.

In: trajectories. Out: `centroids.parquet`, one row a cluster, and for every shard of the trajectories one of the same
rows with their cluster and their distance to its centroid. The fit runs on one node, the only place where the N x T
matrix stands; a pool too large for that (`cluster.max_fit_rows`) is fitted on a seeded sample. Assignment goes shard by
shard.
Cluster numbers are unique over the run: those of a source begin where those of the one before it, by name, end.
Only rows with status ok take part; the others have neither cluster nor distance.
"""

import time
from collections.abc import Generator
from importlib.util import find_spec
from typing import Any

import numpy as np

from s2l_ray.artifacts.schemas import CLUSTERS, shard_path
from s2l_ray.artifacts.tables import FileRecord, find_complete_unit, read_table
from s2l_ray.config.sections import Config
from s2l_ray.runtime.actor_pool import run_units
from s2l_ray.runtime.contracts import Cluster, Failed, PoolOptions, Progress, ResourceRequest
from s2l_ray.stages.build import (
    Build,
    NamedUnit,
    Product,
    Stage,
    cpus_each,
    in_one_place,
    look_for,
    memory_asked,
    retry_options,
)
from s2l_ray.stages.cluster_workers import CENTROIDS, AssignWorker, fit

KIND = "clusters"


def execution(config: Config, cluster: Cluster) -> dict[str, Any]:
    """The backend decides the last bits of the centroids; they are stored and everything later reads them."""
    wanted = config.resources.cluster
    backend = wanted.backend
    if backend == "auto":
        backend = "cuml" if cluster.gpus and find_spec("cuml") else "torch"
    uses_gpu = backend == "cuml" or (backend == "torch" and cluster.gpus > 0)
    return {"backend": backend, "workers": wanted.workers, "gpus": 1.0 if uses_gpu else 0.0}


def needs(build: Build) -> ResourceRequest:
    """Room for the fit on one node: x_NT as it is read, whole and by group, and what else comes with a row."""
    trajectories = build.inputs["trajectories"].manifest
    rows = min(trajectories.counts["kept"], build.config.cluster.max_fit_rows)
    memory = memory_asked(build.cluster, rows * (4 * 4 * len(trajectories.facts["steps"]) + 64))
    remedy = "lower cluster.max_fit_rows"
    return ResourceRequest("cluster", remedy, 1, cpus_each(build.cluster), build.execution["gpus"], memory)


def cluster(build: Build) -> Stage:
    """Fit the centroids, unless they are stored, then give every row its cluster."""
    begun = time.monotonic()
    fitted = _stored_fit(build)
    if fitted is None:
        trajectories = build.inputs["trajectories"]
        yield Progress(KIND, 0, 1, unit="fits", note=f"fitting on {trajectories.manifest.counts['kept']} trajectories")
        what = f"clustering {trajectories.manifest.counts['kept']} trajectories"
        lower = "lower cluster.max_fit_rows"
        yield from in_one_place(build, fit, _fit_arguments(build), what=what, lower=lower, place=needs(build))
        fitted = _stored_fit(build)
        if fitted is None:
            raise RuntimeError(f"{build.folder}/{CENTROIDS}: written and not readable")
    fit_seconds = time.monotonic() - begun
    yield from _warn_about_small_groups(build, fitted)
    assigned = yield from _assign(build, fitted)
    facts = {"fit_seconds": round(fit_seconds, 3), **_summary(build, fitted, assigned.facts)}
    return Product([fitted, *assigned.files], counts=assigned.counts, facts=facts, schema=CLUSTERS)


def _fit_facts(build: Build) -> dict[str, str]:
    return {"trajectories": build.inputs["trajectories"].manifest.fingerprint, "backend": build.execution["backend"]}


def _stored_fit(build: Build) -> FileRecord | None:
    return find_complete_unit(build.folder, CENTROIDS, _fit_facts(build))


def _fit_arguments(build: Build) -> dict[str, Any]:
    return {
        "folder": build.folder,
        "trajectories": build.inputs["trajectories"].uri,
        "settings": build.config.cluster.model_dump(),
        "execution": build.execution,
        "facts": _fit_facts(build),
    }


def _warn_about_small_groups(build: Build, fitted: FileRecord) -> Generator[Progress, None, None]:
    centroids = read_table(build.folder, fitted)
    for group in sorted(set(centroids["source"].to_pylist())):
        count = centroids["source"].to_pylist().count(group)
        if count < build.config.cluster.k:
            where = f"source {group}" if group else "the pool"
            yield Progress(KIND, note=f"{where} has only {count} rows to cluster: K = {count} there")


def _assign(build: Build, fitted: FileRecord) -> Generator[Progress, None, Product]:
    shards = build.inputs["trajectories"].shards()
    units = [
        NamedUnit(
            {"name": shard_path(shard), "shard": shard, "facts": {"centroids": fitted.sha256, "shard": record.sha256}}
        )
        for shard, record in enumerate(shards)
    ]
    found = look_for(units, lambda unit: find_complete_unit(build.folder, unit["name"], unit["facts"]))
    missing = [unit for unit, record in zip(units, found, strict=True) if record is None]
    files = [record for record in found if record is not None]
    arguments = {
        "folder": build.folder,
        "trajectories": build.inputs["trajectories"].uri,
        "settings": build.config.cluster.model_dump(),
        "centroids": vars(fitted),
    }
    options = PoolOptions(
        "assigning clusters",
        "use nodes with more memory",
        cpus=cpus_each(build.cluster),
        retry=retry_options(build),
        done_before=len(files),
        units_per_task=max(1, len(missing) // 16),
    )
    for result in run_units(missing, AssignWorker, options, arguments):
        if isinstance(result, Failed):
            continue
        files.append(FileRecord(**result.value["file"]))
        yield Progress(KIND, len(files), len(units), unit="shards assigned")
    sizes_K, inertia = _totals(build.folder, files)
    read = sum(record.rows or 0 for record in files)
    kept = int(sizes_K.sum())
    aside = {"no_trajectory": read - kept} if read > kept else {}
    return Product(files, {"read": read, "kept": kept, "set_aside": aside}, {"sizes": sizes_K, "inertia": inertia})


def _totals(folder: str, files: list[FileRecord]) -> tuple[Any, float]:
    """Cluster sizes and inertia from the files themselves, so that a resumed run counts what it did not do again."""
    sizes_K, inertia = np.zeros(0, np.int64), 0.0
    for record in sorted(files, key=lambda record: record.path):
        table = read_table(folder, record, ["cluster", "distance"]).drop_null()
        counts = np.bincount(table["cluster"].to_numpy(), minlength=len(sizes_K))
        counts[: len(sizes_K)] += sizes_K
        sizes_K = counts
        inertia += float(np.square(table["distance"].to_numpy().astype(np.float64)).sum())
    return sizes_K, inertia


def _summary(build: Build, fitted: FileRecord, totals: dict[str, Any]) -> dict[str, Any]:
    centroids = read_table(build.folder, fitted, ["source", "cluster"])
    sizes_K = np.zeros(len(centroids), np.int64)
    sizes_K[: len(totals["sizes"])] = totals["sizes"]
    by_group: dict[str, list[int]] = {}
    for group, size in zip(centroids["source"].to_pylist(), sizes_K.tolist(), strict=True):
        by_group.setdefault(group or "the whole pool", []).append(size)
    return {
        "clusters": len(centroids),
        "empty_clusters": int((sizes_K == 0).sum()),
        "inertia": totals["inertia"],
        "group_by": build.config.cluster.group_by,
        "cluster_sizes": by_group,
    }
