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
import pyarrow as pa

from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.artifacts.schemas import CLUSTERS, OK, shard_path
from s2l_ray.artifacts.tables import FileRecord, decode_intact, finished_unit, read_table, read_verified, write_table
from s2l_ray.config import Config
from s2l_ray.progress import Progress
from s2l_ray.runtime.remote import run_remote
from s2l_ray.runtime.session import Cluster
from s2l_ray.runtime.units import Pool, Result, Unit, run_units
from s2l_ray.stages.build import Build, Product, Stage, cpus_each

KIND = "clusters"
CENTROIDS = "centroids.parquet"
WHOLE_POOL = ""
COLUMNS = ("example_id", "source", "status", "losses")


def execution(config: Config, cluster: Cluster) -> dict[str, Any]:
    """The backend decides the last bits of the centroids; they are stored and everything later reads them."""
    wanted = config.resources.cluster
    backend = wanted.backend
    if backend == "auto":
        backend = "cuml" if cluster.gpus and find_spec("cuml") else "torch"
    uses_gpu = backend in ("cuml", "torch") and cluster.gpus > 0
    return {"backend": backend, "workers": wanted.workers, "gpus": 1.0 if uses_gpu else 0.0}


def cluster(build: Build) -> Stage:
    """Fit the centroids, unless they are stored, then give every row its cluster."""
    begun = time.monotonic()
    fitted = _stored_fit(build)
    if fitted is None:
        trajectories = build.inputs["trajectories"]
        yield Progress(KIND, 0, 1, unit="fits", note=f"fitting on {trajectories.manifest.counts['kept']} trajectories")
        what = f"clustering {trajectories.manifest.counts['kept']} trajectories"
        gpus = build.execution["gpus"]
        cpus, lower = cpus_each(build.cluster), "cluster.max_fit_rows"
        run_remote(fit, _fit_arguments(build), what=what, lower=lower, cpus=cpus, gpus=gpus)
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
    return finished_unit(build.folder, CENTROIDS, _fit_facts(build))


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


def fit(arguments: dict[str, Any]) -> None:
    """Read the trajectories, fit each group, put the centroids. Runs on one node."""
    from s2l_ray.core.kmeans import fit_kmeans

    settings, execution = arguments["settings"], arguments["execution"]
    x_NT, source_N = _read_matrix(arguments["trajectories"], settings)
    rows: list[dict[str, Any]] = []
    for group in sorted(set(source_N.tolist())):
        x_GT = x_NT[source_N == group]
        fitted = fit_kmeans(
            x_GT,
            settings["k"],
            seed=settings["seed"],
            iterations=settings["iterations"],
            restarts=settings["restarts"],
            backend=execution["backend"],
            sample_per_cluster=settings["sample_per_cluster"],
            sample_iterations=settings["sample_iterations"],
            workers=execution["workers"],
        )
        for centroid_T in fitted.centroids_KT:
            rows.append({"source": group, "cluster": len(rows), "centroid": centroid_T})
    if not rows:
        raise ValueError("no row has status ok, so there is nothing to cluster; `s2l show` the trajectories' counts")
    table = pa.Table.from_pylist(rows, schema=_centroids_schema(rows))
    write_table(arguments["folder"], CENTROIDS, table, arguments["facts"])


def _centroids_schema(rows: list[dict[str, Any]]) -> pa.Schema:
    centroid = pa.list_(pa.float32(), len(rows[0]["centroid"]))
    return pa.schema([("source", pa.string()), ("cluster", pa.int32()), ("centroid", centroid)])


def _read_matrix(uri: str, settings: dict[str, Any]) -> tuple[Any, Any]:
    """x_NT and the group of every row, for the rows with status ok, or a seeded sample of them."""
    trajectories = open_artifact(uri)
    columns_T = chosen_columns(trajectories.manifest.facts["steps"], settings["checkpoints"])
    rows_by_source: dict[str, int] = trajectories.manifest.facts["ok_by_source"]
    by_group = rows_by_source if settings["group_by"] == "source" else {WHOLE_POOL: sum(rows_by_source.values())}
    taken = fit_rows(by_group, settings["max_fit_rows"], settings["k"], settings["seed"])
    seen = dict.fromkeys(by_group, 0)
    parts, groups = [], []
    for table in trajectories.read_tables(COLUMNS):
        x_BT, group_B = ok_rows(table, columns_T, settings["group_by"])
        kept_B = np.zeros(len(x_BT), bool)
        for group in set(group_B.tolist()):
            mine_M = np.flatnonzero(group_B == group)
            kept_B[mine_M] = np.isin(seen[group] + np.arange(len(mine_M)), taken[group], assume_unique=True)
            seen[group] += len(mine_M)
        parts.append(x_BT[kept_B])
        groups.append(group_B[kept_B])
    return np.concatenate(parts), np.concatenate(groups)


def fit_rows(by_group: dict[str, int], most: int, k: int, seed: int) -> dict[str, Any]:
    """Positions of the rows to fit on inside each group: all, or about `most` over all groups, drawn in proportion.

    A group keeps at least k of its rows, so that a small one can have its clusters.
    """
    total = sum(by_group.values())
    if total <= most:
        return {group: np.arange(rows) for group, rows in by_group.items()}
    wanted = {group: min(rows, max(k, most * rows // total)) for group, rows in by_group.items()}
    return {
        group: np.sort(np.random.default_rng([seed, place]).choice(by_group[group], wanted[group], replace=False))
        for place, group in enumerate(sorted(by_group))
    }


def chosen_columns(steps: list[int], checkpoints: str | list[int]) -> list[int]:
    """Positions of the checkpoints to cluster on: all, those after training began, or the named steps."""
    from s2l_ray.core.trajectories import choose_columns

    return [int(column) for column in choose_columns(checkpoints, steps)]


def ok_rows(table: pa.Table, columns_T: list[int], group_by: str) -> tuple[Any, Any]:
    """Trajectories and groups of a shard's rows with status ok."""
    kept = table.filter(pa.array(np.asarray(table["status"]) == OK))
    losses = kept["losses"].combine_chunks()
    width = losses.type.list_size
    x_BT = np.asarray(losses.flatten()).reshape(-1, width)[:, columns_T]
    source_B = np.asarray(kept["source"].to_numpy(zero_copy_only=False), object)
    return x_BT, source_B if group_by == "source" else np.full(len(kept), WHOLE_POOL, object)


def _assign(build: Build, fitted: FileRecord) -> Generator[Progress, None, Product]:
    shards = build.inputs["trajectories"].shards()
    units: list[Unit] = [
        {"shard": shard, "facts": {"centroids": fitted.sha256, "shard": record.sha256}}
        for shard, record in enumerate(shards)
    ]
    done = {unit["shard"]: finished_unit(build.folder, shard_path(unit["shard"]), unit["facts"]) for unit in units}
    missing = [unit for unit in units if done[unit["shard"]] is None]
    files = [record for record in done.values() if record is not None]
    arguments = {
        "folder": build.folder,
        "trajectories": build.inputs["trajectories"].uri,
        "settings": build.config.cluster.model_dump(),
        "centroids": vars(fitted),
        "backend": build.execution["backend"],
    }
    pool = Pool("assigning clusters", "data.shard_size", cpus=cpus_each(build.cluster), arguments=arguments)
    for result in run_units(missing, AssignWorker, pool, bundle=max(1, len(missing) // 16)):
        files.append(FileRecord(**result["file"]))
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


class AssignWorker:
    """The nearest centroid of its group for every row of a shard."""

    def __init__(
        self, folder: str, trajectories: str, settings: dict[str, Any], centroids: dict[str, Any], backend: str
    ) -> None:
        self._folder = folder
        self._trajectories = open_artifact(trajectories)
        self._group_by = settings["group_by"]
        self._columns_T = chosen_columns(self._trajectories.manifest.facts["steps"], settings["checkpoints"])
        table = decode_intact(read_verified(folder, FileRecord(**centroids)))
        if table is None:
            raise RuntimeError(f"{folder}/{CENTROIDS}: not readable")
        group_K = np.asarray(table["source"].to_pylist(), object)
        centroid_KT = np.asarray(table["centroid"].combine_chunks().flatten()).reshape(len(table), -1)
        number_K = table["cluster"].to_numpy()
        self._groups = {
            group: (number_K[group_K == group], centroid_KT[group_K == group]) for group in set(group_K.tolist())
        }

    def __call__(self, unit: Unit) -> Result:
        from s2l_ray.core.kmeans import assign_clusters

        table = self._trajectories.read_file(shard_path(unit["shard"]), COLUMNS)
        x_BT, group_B = ok_rows(table, self._columns_T, self._group_by)
        cluster_B, distance_B = np.empty(len(x_BT), np.int32), np.empty(len(x_BT), np.float32)
        for group in sorted(set(group_B.tolist())):
            mine_B = group_B == group
            number_K, centroid_KT = self._groups[group]
            label_G, distance_B[mine_B] = assign_clusters(np.ascontiguousarray(x_BT[mine_B]), centroid_KT)
            cluster_B[mine_B] = number_K[label_G]
        place_B = np.flatnonzero(np.asarray(table["status"]) == OK)
        columns = [_spread(len(table), place_B, cluster_B), _spread(len(table), place_B, distance_B)]
        assigned = pa.Table.from_arrays([table["example_id"], *columns], schema=CLUSTERS)
        return {"file": vars(write_table(self._folder, shard_path(unit["shard"]), assigned, unit["facts"]))}


def _spread(rows: int, place_B: Any, value_B: Any) -> pa.Array:
    """Values at their rows, null everywhere else."""
    value_N, missing_N = np.zeros(rows, value_B.dtype), np.ones(rows, bool)
    value_N[place_B], missing_N[place_B] = value_B, False
    return pa.array(value_N, mask=missing_N)
