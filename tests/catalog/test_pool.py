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

from s2l_ray.artifacts.facts import DatasetFacts, EmbeddingsFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import NO_TARGET_TOKENS, NON_FINITE, NOT_SCORED, OK, SUBSET
from s2l_ray.catalog.pool import OnShard, PoolRows, read_pool, subset_table
from s2l_ray.config.select import Select
from s2l_ray.core.selection.pool import Selection
from s2l_ray.stages.select import choose
from tests.support.pool_artifacts import (
    ROW_TOKENS,
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
    [
        PoolRow("a0", "b", losses=(3.0, 1.0)),
        PoolRow("a1", "a", NO_TARGET_TOKENS, cluster=None),
        PoolRow("a2", "a", cluster=1),
    ],
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


def positions(shards: Shards) -> list[tuple[int, int]]:
    """Shard and row of every row of the pool."""
    return [(shard, number) for shard, rows in enumerate(shards) for number, row in enumerate(rows) if row.status == OK]


def sources(rows: PoolRows) -> list[str]:
    return [rows.pool.source_names[code] for code in rows.pool.source_N.tolist()]


def found_positions(rows: PoolRows) -> list[tuple[int, int]]:
    shard_N, row_N = rows.positions(np.arange(len(rows.pool)))
    return list(zip(shard_N.tolist(), row_N.tolist(), strict=True))


def read(inputs: dict[str, Artifact], method: str = "random", on_shard: OnShard = ignore, **keys: object) -> PoolRows:
    """The pool of a method, from the inputs that it needs."""
    select = Select.model_validate({"method": method, "budget": 1, **keys})
    return read_pool({kind: inputs[kind] for kind in select.needs.inputs()}, select, "", on_shard)


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Artifact]:
    return inputs_of(tmp_path, SHARDS)


def test_the_pool_of_a_dataset_alone(inputs: dict[str, Artifact]) -> None:
    rows = read(inputs)
    # The dataset has as ok what scoring found not finite or did not score.
    assert found_positions(rows) == [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (4, 0), (4, 1)]
    assert sources(rows) == ["b", "a", "c", "a", "b", "d", "a", "a"]
    assert len(rows.pool.source_names) == 4
    assert (rows.pool.cluster_N, rows.pool.score_N, rows.pool.group_by) == (None, None, "source")
    assert len(rows.pool) == 8
    assert rows.source.uri == inputs["dataset"].uri


@pytest.mark.parametrize("group_by", ["source", "none"])
def test_the_pool_of_trajectories_and_clusters(tmp_path: Path, group_by: str) -> None:
    inputs = inputs_of(tmp_path, SHARDS, group_by)
    rows = read(inputs, "s2l")
    assert found_positions(rows) == [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2), (4, 1)]
    assert sources(rows) == ["b", "a", "c", "a", "b", "a"]
    assert rows.pool.cluster_N is not None
    assert rows.pool.cluster_N.tolist() == [0, 1, 4, -1, 0, 2]
    assert rows.pool.usable().tolist() == [True, True, True, False, True, True]
    assert rows.pool.group_by == group_by
    assert rows.pool.score_N is None
    assert rows.source.uri == inputs["trajectories"].uri


def test_the_pool_of_a_ranking(inputs: dict[str, Artifact]) -> None:
    rows = read(inputs, "high_learnability")
    assert found_positions(rows) == positions(SHARDS) == [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2), (4, 1)]
    assert rows.pool.score_N is not None and rows.pool.score_N.dtype == np.float32
    assert rows.pool.score_N.tolist() == [2, 0.5, 0.5, 0.5, 0.5, 0.125]
    assert rows.pool.prefix_N is not None
    assert rows.pool.prefix_N[0] == int.from_bytes(b"a0\0\0\0\0\0\0", "big")
    assert rows.pool.cluster_N is None


def test_the_pool_of_a_ranking_inside_clusters(inputs: dict[str, Artifact]) -> None:
    rows = read(inputs, "high_learnability", within="clusters")
    assert rows.pool.cluster_N is not None
    assert rows.pool.cluster_N.tolist() == [0, 1, 4, -1, 0, 2]


def test_the_pool_of_vectors(inputs: dict[str, Artifact]) -> None:
    rows = read(inputs, "k_center")
    assert rows.pool.feature_ND is not None
    assert rows.pool.feature_ND.tolist() == [[1], [0.5], [2], [0.5], [0.5], [0.125]], "step 0 is no feature"


def test_official_rows_without_targets_have_the_cluster_nearest_to_zero(tmp_path: Path) -> None:
    inputs = inputs_of(tmp_path, SHARDS)
    centroids = pa.table(
        {
            "source": ["a", "a", "b"],
            "cluster": pa.array([1, 2, 0], pa.int32()),
            "centroid": pa.FixedSizeListArray.from_arrays(pa.array([0.5, 3.0, 2.0], pa.float32()), 1),
        }
    )
    of_trajectories = {"trajectories": "1" * 12}
    uri = f"{tmp_path}/clusters/{'4' * 12}"
    inputs["clusters"] = write_clusters(uri, SHARDS, inputs=of_trajectories, centroids=centroids)
    rows = read(inputs, "s2l", compat="official")
    at = found_positions(rows).index((0, 1))
    assert rows.pool.cluster_N is not None and rows.pool.cluster_N[at] == 1
    assert len(rows.pool) == len(positions(SHARDS)) + 1


@pytest.mark.parametrize("within", ["pool", "source", "clusters"])
def test_official_learning_percentage_has_rows_without_targets_in_its_pool(tmp_path: Path, within: str) -> None:
    """As the hardest, except inside clusters of embeddings, where they have no cluster."""
    inputs = inputs_of(tmp_path, SHARDS)
    inputs["clusters"] = write_clusters(f"{tmp_path}/clusters/{'5' * 12}", SHARDS, inputs={"embeddings": "1" * 12})
    keys = {"within": within, "first": 1, "last": 1, "compat": "official", "budget": "50%"}
    rows = read(inputs, "learning_percentage", **keys)
    select = Select.model_validate({"method": "learning_percentage", **keys})
    at = found_positions(rows).index((0, 1))
    selection = choose(rows, select, 1)
    if within == "clusters":
        without = int((~rows.pool.usable()).sum())
        assert without == 2 and at not in selection.index_M
        assert selection.notes == {"parts": 2, "missing_values": without}
    else:
        assert at in selection.index_M


@pytest.mark.parametrize("method", ["facility_location", "k_center"])
def test_the_pool_of_embeddings_needs_no_trajectories(inputs: dict[str, Artifact], tmp_path: Path, method: str) -> None:
    """Rows that are ok in the dataset and have no vector are excluded by their missing values."""
    vectors = [[[1.0, 2.0], None, [3.0, 4.0]], [[5.0, 6.0]] * 3, [None], [], [[7.0, 8.0], [9.0, 10.0]]]
    tables = [pa.table({"embedding": pa.array(shard, pa.list_(pa.float32(), 2))}) for shard in vectors]
    uri = f"{tmp_path}/embeddings/{'6' * 12}"
    inputs["embeddings"] = write_artifact(uri, "embeddings", tables, EmbeddingsFacts(2, {}, 0))
    rows = read(inputs, method, features="embeddings")
    assert rows.source.uri == inputs["dataset"].uri
    assert rows.pool.feature_ND is not None
    assert rows.pool.usable().tolist() == [True, True, True, True, True, False, True, True]
    assert rows.pool.feature_ND[rows.pool.usable()].tolist() == [vector for one in vectors for vector in one if vector]


@pytest.mark.parametrize("budget", [{"target_tokens": 3}, {"tokens": 3}])
@pytest.mark.parametrize("method", ["random", "high_learnability"])
def test_tokens_of_rows(inputs: dict[str, Artifact], budget: dict[str, int], method: str) -> None:
    rows = read(inputs, method, budget=budget)
    assert rows.pool.weight_N is not None
    assert set(rows.pool.weight_N.tolist()) == {ROW_TOKENS if "tokens" in budget else ROW_TOKENS - 1}


def test_lengths_come_from_the_dataset(inputs: dict[str, Artifact]) -> None:
    rows = read(inputs, "longest")
    assert rows.pool.score_N is not None and set(rows.pool.score_N.tolist()) == {ROW_TOKENS - 1}
    assert rows.source.uri == inputs["dataset"].uri


def test_progress_is_reported_by_shards(inputs: dict[str, Artifact]) -> None:
    reported: list[tuple[int, int]] = []
    read(inputs, "s2l", lambda done, total, unit: reported.append((done, total)))
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


@settings(max_examples=40)
@given(st.lists(st.lists(ROWS, max_size=8), min_size=1, max_size=5), st.data())
def test_pool_and_subset_agree_with_a_loop_over_the_rows(shards: Shards, data: st.DataObject) -> None:
    method = data.draw(st.sampled_from(["high_learnability", "s2l"]))
    expected = positions(shards)
    selected = data.draw(st.lists(st.integers(0, len(expected) - 1), unique=True)) if expected else []
    index_M = np.array(sorted(selected), np.int64)
    with TemporaryDirectory() as folder:
        inputs = inputs_of(Path(folder), shards)
        rows = read(inputs, method)
        table = subset_table(rows, Selection(index_M, index_M / 8, index_M / 16))
    written = [shards[shard][row] for shard, row in expected]
    assert found_positions(rows) == expected
    assert sources(rows) == [row.source for row in written]
    if method == "s2l":
        assert rows.pool.cluster_N is not None
        assert rows.pool.cluster_N.tolist() == [-1 if row.cluster is None else row.cluster for row in written]
    else:
        assert rows.pool.score_N is not None
        assert rows.pool.score_N.tolist() == [float(np.float32(row.losses[0] - row.losses[1])) for row in written]
    assert table.schema == SUBSET
    assert table.to_pylist() == [
        {
            "example_id": written[index].example_id,
            "source": written[index].source,
            "cluster": written[index].cluster if method == "s2l" else None,
            "shard": expected[index][0],
            "row": expected[index][1],
            "score": index / 8,
            "probability": index / 16,
        }
        for index in sorted(selected)
    ]


def test_an_empty_selection_is_an_empty_table(inputs: dict[str, Artifact]) -> None:
    rows = read(inputs, "s2l")
    table = subset_table(rows, Selection(np.zeros(0, np.int64), np.zeros(0), np.zeros(0)))
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
    rows = read({"dataset": dataset})
    assert sources(rows) == ["x", "y", "x", "x", "z", "y"]
    assert {source: index_N.tolist() for source, index_N in rows.pool.rows_by_source().items()} == {
        "x": [0, 2, 3],
        "y": [1, 5],
        "z": [4],
    }
    table = subset_table(rows, Selection(np.array([1, 3, 5]), np.ones(3), np.ones(3)))
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
        rows = len(read(inputs, "s2l").pool)
        peak = tracemalloc.get_traced_memory()[1] + own_pool.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)
    assert rows == 990_000
    assert own_pool.max_memory() > 250 * 8192, "what Arrow holds of a shard is measured"
    assert peak <= MOST_BYTES_A_ROW * rows, f"{peak / rows:.1f} bytes a row"
