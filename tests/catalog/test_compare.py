"""Comparison of artifacts, against sets and pairs that are counted by hand."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr
from sklearn.metrics import adjusted_rand_score

from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.catalog.compare import Compared, Comparison, compare
from s2l_ray.core.agreement import SetAgreement
from s2l_ray.errors import ConfigError
from tests.support.pool_artifacts import PoolRow, write_clusters, write_dataset, write_subset, write_trajectories

SHARD, STEPS = 7, (0, 1, 2)


def compare_artifacts(artifacts: dict[str, Artifact]) -> Comparison:
    return compare({name: Compared.of(artifact) for name, artifact in artifacts.items()})


def rows_of(seed: int, number: int = 40) -> list[PoolRow]:
    """Rows of two sources with random losses and clusters; every ninth has no target tokens."""
    rng = np.random.default_rng(seed)
    return [
        PoolRow(
            f"id-{row:02d}",
            "large" if row % 4 else "small",
            "no_target_tokens" if row % 9 == 0 else "ok",
            rng.uniform(0, 4, len(STEPS)).tolist(),
            None if row % 9 == 0 else int(rng.integers(4)),
        )
        for row in range(number)
    ]


def write_pool(root: Path, rows: Sequence[PoolRow], selected: Sequence[int], name: str = "0" * 12) -> Artifact:
    """A subset with the artifacts that it was made from, all below one root."""
    shards = [rows[start : start + SHARD] for start in range(0, len(rows), SHARD)]
    dataset = "d" * 12
    write_dataset(f"{root}/dataset/{dataset}", shards)
    write_trajectories(f"{root}/trajectories/{name}", shards, STEPS, {"dataset": dataset})
    write_clusters(f"{root}/clusters/{name}", shards, inputs={"trajectories": name})
    inputs = {"dataset": dataset, "trajectories": name, "clusters": name}
    return write_subset(f"{root}/subset/{name}", shards, selected, inputs)


ROWS = rows_of(0)
FIRST, SECOND = [1, 2, 3, 4, 8, 12], [2, 3, 5, 8, 13, 14, 15]


def test_subsets_by_hand(tmp_path: Path) -> None:
    first = write_pool(tmp_path, ROWS, FIRST)
    second = write_pool(tmp_path, ROWS, SECOND, "1" * 12)
    found = compare_artifacts({"a": first, "b": second})
    assert [(one.name, one.rows, one.by_source) for one in found.subsets] == [
        ("a", 6, {"large": 3, "small": 3}),
        ("b", 7, {"large": 6, "small": 1}),
    ]
    (pair,) = found.subset_pairs
    assert (pair.first, pair.second) == ("a", "b")
    assert pair.rows == SetAgreement(6, 7, 3, 3 / 6, 3 / 10)
    assert pair.by_chance == 7 / 35
    assert pair.by_source == {"large": SetAgreement(3, 6, 2, 2 / 3, 2 / 7), "small": SetAgreement(3, 1, 1, 1.0, 1 / 3)}


@pytest.mark.parametrize("order", ["same", "reversed"])
def test_tables_of_different_datasets_are_matched_by_id(tmp_path: Path, order: str) -> None:
    other_rows = [*rows_of(1), PoolRow("only here", losses=(1.0, 1.0, 1.0))]
    step = 1 if order == "same" else -1
    first = write_pool(tmp_path / "a", ROWS, FIRST)
    positions = [row if step == 1 else len(other_rows) - 1 - row for row in SECOND]
    second = write_pool(tmp_path / "b", other_rows[::step], sorted(positions))
    found = compare_artifacts({"a": first, "b": second})
    assert found.subset_pairs[0].rows.shared == 3
    ok = [row for row in range(len(ROWS)) if row % 9]
    losses = {"a": np.array([ROWS[row].losses for row in ok]), "b": np.array([other_rows[row].losses for row in ok])}
    pairs = {pair.method: pair for pair in found.rankings}
    scores = {"loss_low": lambda x_NT: x_NT[:, -1], "high_learnability": lambda x_NT: x_NT[:, -1] - x_NT[:, 0]}
    assert scores.keys() | {"loss_high", "middle_perplexity", "loss_drop"} <= pairs.keys()
    assert not {"el2n", "longest", "s2l", "column"} & pairs.keys()
    for method, score in scores.items():
        pair = pairs[method]
        x_N, y_N = (score(losses[name].astype(np.float32)) for name in ("a", "b"))
        assert pair.agreement.rows == len(ok)
        assert pair.agreement.kendall == pytest.approx(kendalltau(x_N, y_N).statistic)
        assert pair.agreement.spearman == pytest.approx(spearmanr(x_N, y_N).statistic)
        lowest = [set(np.argsort(one_N)[: len(ok) // 3].tolist()) for one_N in (x_N, y_N)]
        assert pair.agreement.overlaps[33] == len(lowest[0] & lowest[1]) / (len(ok) // 3)
    (clusters,) = found.clusterings
    labels = [[rows[row].cluster for row in ok] for rows in (ROWS, other_rows)]
    assert clusters.rows == len(ok)
    assert clusters.adjusted_rand == pytest.approx(adjusted_rand_score(*labels))


def test_artifacts_that_subsets_share_are_not_compared_with_themselves(tmp_path: Path) -> None:
    first = write_pool(tmp_path, ROWS, FIRST)
    shards = [ROWS[start : start + SHARD] for start in range(0, len(ROWS), SHARD)]
    others = [
        write_subset(f"{tmp_path}/subset/{number:012x}", shards, SECOND[:number], first.manifest.inputs)
        for number in (2, 3)
    ]
    found = compare_artifacts(dict(zip("abc", [first, *others], strict=True)))
    assert [(pair.first, pair.second) for pair in found.subset_pairs] == list(itertools.combinations("abc", 2))
    assert found.rankings == () and found.clusterings == ()


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    subset = write_pool(tmp_path, ROWS, FIRST)
    with pytest.raises(ConfigError, match="two"):
        compare_artifacts({"a": subset})
    with pytest.raises(ConfigError, match="dataset"):
        compare_artifacts({"a": subset, "b": subset.input("dataset")})
    assert compare_artifacts({"a": subset, "b": replace(subset)}).subset_pairs[0].rows.jaccard == 1.0


def test_a_method_without_its_inputs_has_no_ranking(tmp_path: Path) -> None:
    """Trajectories of a job that selects inside clusters are compared by other methods."""
    select = {"method": "loss_low", "within": "clusters", "budget": 3}
    config = {"select": select, "data": {"root": "."}}
    found = []
    for name, seed in (("a", 0), ("b", 1)):
        one = write_pool(tmp_path / name, rows_of(seed), FIRST).input("trajectories")
        found.append(replace(one, manifest=replace(one.manifest, config=config)))
    pairs = compare_artifacts(dict(zip("ab", found, strict=True))).rankings
    assert "loss_low" in {pair.method for pair in pairs}
