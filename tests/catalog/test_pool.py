"""The pool that selectors read, against a loop over the rows that were written."""

import tracemalloc
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.artifacts.facts import DatasetFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import NO_TARGET_TOKENS, NON_FINITE, NOT_SCORED, OK, SUBSET
from s2l_ray.catalog.pool import PoolRows, read_pool, subset_table
from s2l_ray.core.selection.pool import Selection
from tests.support.pool_artifacts import (
    PoolRow,
    Shards,
    write_artifact,
    write_clusters,
    write_dataset,
    write_trajectories,
)

MOST_BYTES_A_ROW = 40

# Sources appear in another order in each shard; the third shard has no row of the pool.
SHARDS = [
    [PoolRow("a0", "b", losses=(3.0, 1.0)), PoolRow("a1", "a", NO_TARGET_TOKENS), PoolRow("a2", "a", cluster=1)],
    [PoolRow("b0", "c", losses=(2.5, 2.0), cluster=4), PoolRow("b1", "a", cluster=None), PoolRow("b2", "b")],
    [PoolRow("c0", "d", NON_FINITE, (np.nan, np.nan), None)],
    [],
    [PoolRow("e0", "a", NOT_SCORED, (np.nan, np.nan), None), PoolRow("e1", "a", losses=(0.25, 0.125), cluster=2)],
]


def ignore(done: int, total: int, unit: str) -> None:
    """Drop the progress."""


def inputs_of(root: Path, shards: Shards, group_by: str = "source") -> dict[str, Artifact]:
    """Artifacts of these rows. The dataset has every row that was scored, or could have been, as ok."""
    unscored = [
        [replace(row, status=OK if row.status in (NON_FINITE, NOT_SCORED) else row.status) for row in rows]
        for rows in shards
    ]
    return {
        "dataset": write_dataset(f"{root}/dataset/{'0' * 12}", unscored),
        "trajectories": write_trajectories(f"{root}/trajectories/{'1' * 12}", shards),
        "clusters": write_clusters(f"{root}/clusters/{'2' * 12}", shards, group_by),
    }


def positions(shards: Shards, clustered: bool = False) -> list[tuple[int, int]]:
    """Shard and row of every row of the pool."""
    return [
        (shard, number)
        for shard, rows in enumerate(shards)
        for number, row in enumerate(rows)
        if row.status == OK and (row.cluster is not None or not clustered)
    ]


def sources(rows: PoolRows) -> list[str]:
    return [rows.pool.source_names[code] for code in rows.pool.source_N.tolist()]


def found_positions(rows: PoolRows) -> list[tuple[int, int]]:
    return list(zip(rows.shard_N.tolist(), rows.row_N.tolist(), strict=True))


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Artifact]:
    return inputs_of(tmp_path, SHARDS)


def test_the_pool_of_a_dataset_alone(inputs: dict[str, Artifact]) -> None:
    rows = read_pool({"dataset": inputs["dataset"]}, (), ignore)
    # The dataset has as ok what scoring found not finite or did not score.
    assert found_positions(rows) == [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (4, 0), (4, 1)]
    assert sources(rows) == ["b", "a", "c", "a", "b", "d", "a", "a"]
    assert len(rows.pool.source_names) == 4
    assert (rows.pool.cluster_N, rows.pool.losses_NT, rows.pool.group_by) == (None, None, "source")
    assert len(rows.pool) == 8
    assert rows.source.uri == inputs["dataset"].uri


@pytest.mark.parametrize("group_by", ["source", "none"])
def test_the_pool_of_trajectories_and_clusters(tmp_path: Path, group_by: str) -> None:
    inputs = inputs_of(tmp_path, SHARDS, group_by)
    rows = read_pool(inputs, ("clusters",), ignore)
    assert found_positions(rows) == [(0, 0), (0, 2), (1, 0), (1, 2), (4, 1)]
    assert sources(rows) == ["b", "a", "c", "b", "a"]
    assert rows.pool.cluster_N is not None
    assert rows.pool.cluster_N.tolist() == [0, 1, 4, 0, 2]
    assert rows.pool.group_by == group_by
    assert rows.pool.losses_NT is None
    assert rows.source.uri == inputs["trajectories"].uri


def test_the_pool_with_losses(inputs: dict[str, Artifact]) -> None:
    rows = read_pool({kind: inputs[kind] for kind in ("dataset", "trajectories")}, ("losses",), ignore)
    assert found_positions(rows) == [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2), (4, 1)]
    assert rows.pool.losses_NT is not None and rows.pool.losses_NT.dtype == np.float32
    assert rows.pool.losses_NT.tolist() == [[3, 1], [1, 0.5], [2.5, 2], [1, 0.5], [1, 0.5], [0.25, 0.125]]
    assert rows.pool.cluster_N is None


def test_clusters_that_are_not_needed_exclude_no_row(inputs: dict[str, Artifact]) -> None:
    assert found_positions(read_pool(inputs, ("losses",), ignore)) == positions(SHARDS)


def test_progress_is_reported_by_shards(inputs: dict[str, Artifact]) -> None:
    reported: list[tuple[int, int]] = []
    read_pool(inputs, ("clusters",), lambda done, total, unit: reported.append((done, total)))
    assert reported and {total for _, total in reported} == {len(SHARDS)}
    assert sorted(reported) == reported


ROWS = st.builds(
    PoolRow,
    st.text("abcdef0123456789", min_size=8, max_size=8),
    st.sampled_from(["a", "b", "é", "a longer name", ""]),
    st.sampled_from([OK, OK, OK, NO_TARGET_TOKENS, NON_FINITE]),
    st.tuples(st.floats(0, 9, width=32), st.floats(0, 9, width=32)),
    st.none() | st.integers(0, 5),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(ROWS, max_size=8), min_size=1, max_size=5), st.data())
def test_pool_and_subset_agree_with_a_loop_over_the_rows(shards: Shards, data: st.DataObject) -> None:
    needs = data.draw(st.sampled_from([(), ("losses",), ("clusters",), ("clusters", "losses")]))
    expected = positions(shards, "clusters" in needs)
    selected = data.draw(st.lists(st.integers(0, len(expected) - 1), unique=True)) if expected else []
    index_M = np.array(sorted(selected), np.int64)
    with TemporaryDirectory() as folder:
        inputs = inputs_of(Path(folder), shards)
        rows = read_pool(inputs, needs, ignore)
        table = subset_table(rows, Selection(index_M, index_M / 8))
    written = [shards[shard][row] for shard, row in expected]
    assert found_positions(rows) == expected
    assert sources(rows) == [row.source for row in written]
    if "clusters" in needs:
        assert rows.pool.cluster_N is not None
        assert rows.pool.cluster_N.tolist() == [row.cluster for row in written]
    if "losses" in needs:
        assert rows.pool.losses_NT is not None
        assert rows.pool.losses_NT.reshape(-1, 2).tolist() == [list(row.losses) for row in written]
    assert table.schema == SUBSET
    assert table.to_pylist() == [
        {
            "example_id": written[index].example_id,
            "source": written[index].source,
            "cluster": written[index].cluster if "clusters" in needs else None,
            "shard": expected[index][0],
            "row": expected[index][1],
            "score": index / 8,
        }
        for index in sorted(selected)
    ]


def test_an_empty_selection_is_an_empty_table(inputs: dict[str, Artifact]) -> None:
    rows = read_pool(inputs, ("clusters",), ignore)
    table = subset_table(rows, Selection(np.zeros(0, np.int64), np.zeros(0)))
    assert len(table) == 0 and table.schema == SUBSET


def test_dictionary_coded_sources(tmp_path: Path) -> None:
    """Codes of a shard are its own: the same name has another code in the next shard, and some names have no row."""
    names = [["x", "y", "unused"], ["unused", "y", "z", "x"]]
    codes = [[0, 1, 1, 0], [3, 2, 1, 1]]
    tables = [
        pa.table(
            {
                "example_id": [f"{shard}-{row}" for row in range(4)],
                "source": pa.DictionaryArray.from_arrays(pa.array(codes[shard], pa.int32()), names[shard]),
                "status": [OK, OK, NO_TARGET_TOKENS, OK],
            }
        )
        for shard in (0, 1)
    ]
    facts = DatasetFacts({OK: 6, NO_TARGET_TOKENS: 2}, {}, 0, 0, 0, 0, 2, 1)
    dataset = write_artifact(f"{tmp_path}/dataset/{'0' * 12}", "dataset", tables, facts)
    rows = read_pool({"dataset": dataset}, (), ignore)
    assert sources(rows) == ["x", "y", "x", "x", "z", "y"]
    assert {source: index_N.tolist() for source, index_N in rows.pool.rows_by_source().items()} == {
        "x": [0, 2, 3],
        "y": [1, 5],
        "z": [4],
    }
    table = subset_table(rows, Selection(np.array([1, 3, 5]), np.ones(3)))
    assert table["source"].to_pylist() == ["y", "x", "y"]
    assert table["example_id"].to_pylist() == ["0-1", "1-0", "1-3"]


def write_million(root: Path, rows: int) -> dict[str, Artifact]:
    """Trajectories and clusters of rows from 200 sources with names of 250 characters, in shards of 8192 rows."""
    names = pa.array([f"{number}".ljust(250, "x") for number in range(200)])
    trajectories, clusters = [], []
    for start in range(0, rows, 8192):
        number_N = np.arange(start, min(rows, start + 8192))
        status = pa.array(np.where(number_N % 100 == 0, NO_TARGET_TOKENS, OK))
        trajectories.append(pa.table({"source": names.take(pa.array(number_N * 7 % 200)), "status": status}))
        clusters.append(pa.table({"cluster": pa.array(number_N % 100, pa.int32())}))
    inputs = inputs_of(root, SHARDS)
    for kind, tables in (("trajectories", trajectories), ("clusters", clusters)):
        uri = f"{root}/{kind}/{'3' * 12}"
        inputs[kind] = write_artifact(uri, kind, tables, inputs[kind].manifest.facts)
    return inputs


def test_a_pool_of_a_million_rows_fits_in_the_bound(tmp_path: Path) -> None:
    inputs = write_million(tmp_path, 1_000_000)
    before, own_pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(own_pool)
    tracemalloc.start()
    try:
        rows = len(read_pool(inputs, ("clusters",), ignore).pool)
        peak = tracemalloc.get_traced_memory()[1] + own_pool.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)
    assert rows == 990_000
    assert own_pool.max_memory() > 250 * 8192, "what Arrow holds of a shard is measured"
    assert peak <= MOST_BYTES_A_ROW * rows, f"{peak / rows:.1f} bytes a row"
