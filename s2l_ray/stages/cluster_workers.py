"""What the workers of `cluster` do: the fit, in one place, and the nearest centroid for every row of a shard.

In: trajectories, by their URI. Out: `centroids.parquet`, and shards of clusters. Workers take plain values and are
called without Ray in tests.
"""

import functools
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.artifacts.schemas import CLUSTERS, OK, shard_path
from s2l_ray.artifacts.tables import FileRecord, decode_if_unchanged, read_verified, write_table
from s2l_ray.errors import S2LError
from s2l_ray.runtime.worker_process import report_progress

CENTROIDS = "centroids.parquet"
WHOLE_POOL = ""
COLUMNS = ("example_id", "source", "status", "losses")

Unit = dict[str, Any]
Result = dict[str, Any]


def fit(arguments: dict[str, Any]) -> None:
    """Read the trajectories, fit each group, put the centroids. Runs on one node."""
    from s2l_ray.core.kmeans.fit import KMeansOptions, fit_kmeans

    settings, execution = arguments["settings"], arguments["execution"]
    x_NT, source_N = _read_matrix(arguments["trajectories"], settings)
    options = KMeansOptions(
        iterations=settings["iterations"],
        restarts=settings["restarts"],
        sample_per_cluster=settings["sample_per_cluster"],
        sample_iterations=settings["sample_iterations"],
        backend=execution["backend"],
    )
    rows: list[dict[str, Any]] = []
    groups = sorted(set(source_N.tolist()))
    for number, group in enumerate(groups):
        x_GT = x_NT[source_N == group]
        passes = "passes" + (f" (group {number + 1} of {len(groups)})" if group else "")
        fitted = fit_kmeans(
            x_GT,
            settings["k"],
            seed=settings["seed"],
            options=options,
            workers=execution["workers"],
            gpu=execution["gpus"] > 0,
            on_pass=functools.partial(report_progress, unit=passes),
        )
        for centroid_T in fitted.centroids_KT:
            rows.append({"source": group, "cluster": len(rows), "centroid": centroid_T})
    if not rows:
        raise S2LError("no row has status ok, so there is nothing to cluster; `s2l show` the trajectories' counts")
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
    shards = len(trajectories.shards())
    for shard, table in enumerate(trajectories.read_tables(COLUMNS)):
        report_progress(shard, shards, "shards read")
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


class AssignWorker:
    """The nearest centroid of its group for every row of a shard, on the CPU, which gives the same bits on any node."""

    def __init__(self, folder: str, trajectories: str, settings: dict[str, Any], centroids: dict[str, Any]) -> None:
        self._folder = folder
        self._trajectories = open_artifact(trajectories)
        self._group_by = settings["group_by"]
        self._columns_T = chosen_columns(self._trajectories.manifest.facts["steps"], settings["checkpoints"])
        table = decode_if_unchanged(read_verified(folder, FileRecord(**centroids)))
        if table is None:
            raise RuntimeError(f"{folder}/{CENTROIDS}: not readable")
        group_K = np.asarray(table["source"].to_pylist(), object)
        centroid_KT = np.asarray(table["centroid"].combine_chunks().flatten()).reshape(len(table), -1)
        number_K = table["cluster"].to_numpy()
        self._groups = {
            group: (number_K[group_K == group], centroid_KT[group_K == group]) for group in set(group_K.tolist())
        }

    def __call__(self, unit: Unit) -> Result:
        from s2l_ray.core.kmeans.fit import assign_clusters

        table = self._trajectories.read_file(shard_path(unit["shard"]), COLUMNS)
        x_BT, group_B = ok_rows(table, self._columns_T, self._group_by)
        cluster_B, distance_B = np.empty(len(x_BT), np.int32), np.empty(len(x_BT), np.float32)
        for group in sorted(set(group_B.tolist())):
            mine_B = group_B == group
            number_K, centroid_KT = self._groups[group]
            label_G, distance_B[mine_B] = assign_clusters(np.ascontiguousarray(x_BT[mine_B]), centroid_KT, gpu=False)
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
