"""cluster: nearest centroids and the facts about them, resume without reading shards, rows of a sampled fit."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from s2l_ray.artifacts.execution import ClusterExecution
from s2l_ray.artifacts.facts import ClustersFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.tables import read_table
from s2l_ray.errors import DamagedError, S2LError
from s2l_ray.stages.build import Product
from s2l_ray.stages.cluster import cluster
from s2l_ray.stages.cluster_workers import fit_rows, index_by_group
from tests.support.local_build import LocalBuild
from tests.support.pool_artifacts import PoolRow, write_trajectories
from tests.support.stage_build import Reports, local_build, stage_config

SHARD, STEPS, K = 16, [0, 10, 20, 30], 4


def scored_rows(source: str, number: int, seed: int) -> list[PoolRow]:
    """Rows whose losses fall at different rates."""
    rng = np.random.default_rng(seed)
    start_N, rate_N = rng.uniform(1, 4, number), rng.uniform(0.05, 0.9, number)
    curve_NT = start_N[:, None] * np.exp(-rate_N[:, None] * np.arange(len(STEPS)))
    return [PoolRow(f"{source} {row}", source, losses=curve) for row, curve in enumerate(curve_NT.tolist())]


# rows of both sources in turn, and 10 that were not scored
UNSCORED = [PoolRow(f"unscored {row}", "large", "not_scored", [0.0] * len(STEPS)) for row in range(10)]
PAIRS = zip(scored_rows("large", 20, 0), scored_rows("small", 20, 1), strict=True)
ROWS = [*(row for pair in PAIRS for row in pair), *UNSCORED, *scored_rows("large", 40, 2)[20:]]


def write(root: Path, rows: list[PoolRow]) -> Artifact:
    shards = [rows[start : start + SHARD] for start in range(0, len(rows), SHARD)]
    return write_trajectories(f"{root}/trajectories/{'0' * 12}", shards, STEPS)


@pytest.fixture
def trajectories(tmp_path: Path) -> Artifact:
    return write(tmp_path, ROWS)


def build_in(
    folder: Path, trajectories: Artifact, reports: Reports | None = None, **section: object
) -> LocalBuild[Any]:
    config = stage_config(folder, cluster={"k": K, **section})
    execution = ClusterExecution("torch", 1, 0)
    return local_build("clusters", folder / "clusters", config, [trajectories], execution, reports)


def assigned(build: LocalBuild[Any], product: Product) -> tuple[list[int | None], list[float | None]]:
    """Cluster and distance of every row, in order."""
    shards = [record for record in product.files if record.path.startswith("shard-")]
    tables = [read_table(build.folder, record) for record in shards]
    return (
        [value for table in tables for value in table["cluster"].to_pylist()],
        [value for table in tables for value in table["distance"].to_pylist()],
    )


def centroids_of(build: LocalBuild[Any]) -> list[dict[str, object]]:
    return pq.read_table(f"{build.folder}/centroids.parquet").to_pylist()


@pytest.mark.parametrize("group_by", ["source", "none"])
def test_every_row_has_the_nearest_centroid_of_its_group(tmp_path: Path, trajectories: Artifact, group_by: str) -> None:
    """Of the losses without step 0, which trained checkpoints leave out."""
    build = build_in(tmp_path, trajectories, group_by=group_by)
    clusters, distances = assigned(build, cluster(build))
    centroids = centroids_of(build)
    assert [one["cluster"] for one in centroids] == list(range(len(centroids)))
    for row, cluster_id, distance in zip(ROWS, clusters, distances, strict=True):
        if row.status != "ok":
            assert cluster_id is None and distance is None
            continue
        group = row.source if group_by == "source" else ""
        x_T = np.asarray(row.losses, np.float32)[1:]
        to_centroids = {
            one["cluster"]: np.linalg.norm(x_T - np.asarray(one["centroid"], np.float32))
            for one in centroids
            if one["source"] == group
        }
        assert to_centroids[cluster_id] == pytest.approx(min(to_centroids.values()), abs=1e-5)
        assert distance == pytest.approx(to_centroids[cluster_id], abs=1e-4)


def test_a_window_of_checkpoints_clusters_as_its_steps_do(tmp_path: Path, trajectories: Artifact) -> None:
    """Of steps 10, 20 and 30, the second is the last within two thirds of the training."""
    window = build_in(tmp_path / "window", trajectories, checkpoints={"to": 0.67, "last": 1})
    steps = build_in(tmp_path / "steps", trajectories, checkpoints=[20])
    product = cluster(window)
    assert assigned(window, product) == assigned(steps, cluster(steps))
    assert isinstance(product.facts, ClustersFacts) and product.facts.steps == [20]


def test_facts_and_counts_follow_from_the_assignment(tmp_path: Path, trajectories: Artifact) -> None:
    build = build_in(tmp_path, trajectories)
    product = cluster(build)
    clusters, distances = assigned(build, product)
    facts, counts = product.facts, product.counts
    assert isinstance(facts, ClustersFacts)
    sizes = Counter(cluster_id for cluster_id in clusters if cluster_id is not None)
    ids_by_group: dict[str, list[int]] = {}
    for one in centroids_of(build):
        ids_by_group.setdefault(str(one["source"]), []).append(int(str(one["cluster"])))
    assert facts.cluster_sizes == {group: [sizes[one] for one in ids] for group, ids in ids_by_group.items()}
    assert list(ids_by_group) == ["large", "small"] and facts.clusters == 2 * K
    assert facts.empty_clusters == 2 * K - len(sizes)
    assert facts.inertia == pytest.approx(sum(one**2 for one in distances if one is not None), rel=1e-5)
    assert (counts.read, counts.kept, counts.rejected) == (70, 60, {"no_trajectory": 10})


def test_a_source_with_fewer_rows_than_clusters_is_reported(tmp_path: Path) -> None:
    reports = Reports()
    build = build_in(tmp_path, write(tmp_path, [*ROWS, *scored_rows("few", 3, 3)]), reports)
    facts = cluster(build).facts
    assert isinstance(facts, ClustersFacts) and facts.cluster_sizes["few"] == [1, 1, 1]
    assert any("few" in record.note for record in reports.records)


def without_seconds(product: Product) -> Product:
    assert isinstance(product.facts, ClustersFacts)
    return dataclasses.replace(product, facts=dataclasses.replace(product.facts, fit_seconds=0.0))


def test_a_resume_reads_no_shard_of_the_trajectories(tmp_path: Path, trajectories: Artifact) -> None:
    build = build_in(tmp_path, trajectories)
    first = without_seconds(cluster(build))
    for shard in Path(trajectories.uri).glob("shard-*"):
        shard.unlink()
    assert without_seconds(cluster(build)) == first
    with pytest.raises(DamagedError):
        cluster(build_in(tmp_path / "elsewhere", trajectories))


def test_a_resume_assigns_missing_and_damaged_shards_only(tmp_path: Path, trajectories: Artifact) -> None:
    build = build_in(tmp_path, trajectories)
    first = without_seconds(cluster(build))
    folder = Path(build.folder)
    (folder / "shard-00001.parquet").unlink()
    damaged = bytearray((folder / "shard-00003.parquet").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (folder / "shard-00003.parquet").write_bytes(damaged)
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert without_seconds(cluster(build)) == first
    changed = {path.name for path in folder.iterdir() if times.get(path.name) != path.stat().st_mtime_ns}
    assert changed == {"shard-00001.parquet", "shard-00003.parquet"}


def test_a_fit_on_a_sample_reads_the_sampled_rows_of_each_group(tmp_path: Path) -> None:
    """With as many clusters as sampled rows, the centroids are those rows."""
    rows = [*ROWS, *scored_rows("small", 20, 3)]
    build = build_in(tmp_path, write(tmp_path, rows), k=12, max_fit_rows=24)
    cluster(build)
    by_source = {
        name: [row for row in rows if row.source == name and row.status == "ok"] for name in ("large", "small")
    }
    sampled = fit_rows({name: len(own) for name, own in by_source.items()}, 24, 12, seed=0)
    for name, own in by_source.items():
        fitted = sorted(one["centroid"] for one in centroids_of(build) if one["source"] == name)
        expected = sorted(own[position].losses[1:] for position in sampled[name].tolist())
        np.testing.assert_allclose(fitted, expected, rtol=1e-5)


def test_trajectories_without_a_scored_row_are_refused(tmp_path: Path) -> None:
    with pytest.raises(S2LError, match="status ok"):
        cluster(build_in(tmp_path, write(tmp_path, UNSCORED)))


def test_all_rows_are_fitted_where_they_fit() -> None:
    chosen = fit_rows({"a": 5, "b": 2}, max_rows=7, k=3, seed=0)
    assert {group: rows.tolist() for group, rows in chosen.items()} == {"a": [0, 1, 2, 3, 4], "b": [0, 1]}


def test_a_sample_keeps_small_groups_and_the_shares_of_the_others() -> None:
    sizes = {"large": 900_000, "middle": 99_990, "small": 10}
    chosen = fit_rows(sizes, max_rows=10_000, k=20, seed=1)
    assert {group: len(rows) for group, rows in chosen.items()} == {"large": 9_000, "middle": 999, "small": 10}
    for group, rows in chosen.items():
        assert np.all(np.diff(rows) > 0), group
    again = fit_rows(dict(reversed(sizes.items())), max_rows=10_000, k=20, seed=1)
    assert all(np.array_equal(chosen[group], again[group]) for group in chosen)
    other = fit_rows(sizes, max_rows=10_000, k=20, seed=2)
    assert not np.array_equal(chosen["large"], other["large"])


def test_rows_are_grouped_in_their_order() -> None:
    group_N = np.array([f"source {row * 7919 % 23}" for row in range(1000)], object)
    grouped = index_by_group(group_N)
    assert list(grouped) == sorted(set(group_N))
    for group, index in grouped.items():
        assert index.tolist() == [row for row in range(1000) if group_N[row] == group]
    assert index_by_group(group_N[:0]) == {}
