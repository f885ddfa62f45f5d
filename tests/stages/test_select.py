"""select: the pool of each method, the pointers of the subset, its counts and facts."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from s2l_ray.artifacts.execution import SelectExecution
from s2l_ray.artifacts.facts import SubsetFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.tables import read_table
from s2l_ray.errors import ConfigError
from s2l_ray.stages.build import Product
from s2l_ray.stages.select import select
from tests.support.pool_artifacts import PoolRow, write_clusters, write_dataset, write_trajectories
from tests.support.stage_build import Reports, local_build, stage_config

SHARD = 8
CLUSTER_SIZES = {"large": {2: 10, 3: 6, 4: 3}, "small": {0: 4, 1: 1}}


def rows() -> list[PoolRow]:
    """24 scored rows in five clusters of two sources, 3 rows without targets and 5 that were not scored, mixed."""
    scored = [
        PoolRow("", source, cluster=cluster)
        for source, sizes in CLUSTER_SIZES.items()
        for cluster, size in sizes.items()
        for _ in range(size)
    ]
    others = [PoolRow("", "large", "no_target_tokens", cluster=None)] * 3
    others += [PoolRow("", "small", "not_scored", cluster=None)] * 5
    mixed = [row for number, other in enumerate(others) for row in (*scored[3 * number : 3 * number + 3], other)]
    return [replace(row, example_id=f"{number:032x}") for number, row in enumerate(mixed)]


def shards(rows: list[PoolRow]) -> list[list[PoolRow]]:
    return [rows[start : start + SHARD] for start in range(0, len(rows), SHARD)]


ROWS = rows()
OK_IN_DATASET = [number for number, row in enumerate(ROWS) if row.status != "no_target_tokens"]
SCORED = [number for number, row in enumerate(ROWS) if row.status == "ok"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """A row that could not be scored has status ok in the dataset."""
    root = tmp_path_factory.mktemp("inputs")
    prepared = [replace(row, status="ok") if row.status == "not_scored" else row for row in ROWS]
    return {
        "dataset": write_dataset(f"{root}/dataset/{'0' * 12}", shards(prepared)),
        "trajectories": write_trajectories(f"{root}/trajectories/{'0' * 12}", shards(ROWS)),
        "clusters": write_clusters(f"{root}/clusters/{'0' * 12}", shards(ROWS)),
    }


def select_in(
    folder: Path, inputs: dict[str, Artifact], reports: Reports | None = None, **section: object
) -> tuple[Product, list[int], list[dict[str, object]]]:
    """The product, the numbers of the selected rows in the order of the table, and the table."""
    kinds = ("dataset",) if section["method"] != "s2l" else tuple(inputs)
    config = stage_config(folder, select=section)
    build = local_build("subset", folder, config, [inputs[kind] for kind in kinds], SelectExecution(), reports)
    product = select(build)
    (record,) = product.files
    table = read_table(str(folder), record).to_pylist()
    return product, [int(str(row["example_id"]), 16) for row in table], table


def test_the_whole_pool_is_selected_in_dataset_order(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    """A method that needs no clusters selects from the dataset, also rows that were not scored."""
    _, selected, table = select_in(tmp_path / "random", inputs, method="random", budget=len(OK_IN_DATASET))
    assert selected == OK_IN_DATASET
    assert {row["cluster"] for row in table} == {None}
    _, selected, table = select_in(tmp_path / "s2l", inputs, method="s2l", budget=len(SCORED))
    assert selected == SCORED
    assert [row["cluster"] for row in table] == [ROWS[number].cluster for number in SCORED]


@pytest.mark.parametrize("method", ["random", "source_balanced", "s2l"])
def test_rows_of_the_subset_point_to_rows_of_the_dataset(
    inputs: dict[str, Artifact], tmp_path: Path, method: str
) -> None:
    _, selected, table = select_in(tmp_path, inputs, method=method, budget=9)
    assert len(set(selected)) == 9 and set(selected) <= set(OK_IN_DATASET)
    assert selected == sorted(selected)
    assert [(row["shard"], row["row"]) for row in table] == [divmod(number, SHARD) for number in selected]
    assert [row["source"] for row in table] == [ROWS[number].source for number in selected]


@pytest.mark.parametrize(("method", "pool"), [("random", OK_IN_DATASET), ("s2l", SCORED)])
def test_counts_and_facts(inputs: dict[str, Artifact], tmp_path: Path, method: str, pool: list[int]) -> None:
    product, selected, _ = select_in(tmp_path, inputs, method=method, budget=10)
    counts, facts = product.counts, product.facts
    assert (counts.read, counts.kept) == (len(pool), 10)
    assert counts.read == counts.kept + sum(counts.rejected.values())
    assert isinstance(facts, SubsetFacts)
    assert (facts.method, facts.budget, facts.pool) == (method, 10, len(pool))
    assert facts.rows_ok == len(OK_IN_DATASET)
    assert facts.by_source == Counter(ROWS[number].source for number in selected)


def test_s2l_divides_the_budget_over_sources_then_over_clusters(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    """By hand: small has 5 rows and gets 5 of 14; large gets 9, over clusters of 3, 6 and 10 rows: 3 each."""
    _, _, table = select_in(tmp_path, inputs, method="s2l", budget=14, min_cluster_size=1)
    assert Counter(row["source"] for row in table) == {"small": 5, "large": 9}
    assert Counter(row["cluster"] for row in table) == {0: 4, 1: 1, 2: 3, 3: 3, 4: 3}
    scores = {row["cluster"]: row["score"] for row in table}
    assert scores == pytest.approx({0: 1.0, 1: 1.0, 2: 3 / 10, 3: 3 / 6, 4: 1.0})


def test_the_selection_depends_on_the_seed_alone(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    first, again, other = (
        select_in(tmp_path / name, inputs, method="s2l", budget=9, seed=seed)[1]
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    assert first == again != other


def test_a_pool_smaller_than_the_dataset_is_reported(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    reports = Reports()
    select_in(tmp_path / "s2l", inputs, reports, method="s2l", budget=5)
    (warning,) = reports.warnings
    assert str(len(SCORED)) in warning and str(len(OK_IN_DATASET)) in warning
    reports = Reports()
    select_in(tmp_path / "random", inputs, reports, method="random", budget=5)
    assert reports.warnings == []


@pytest.mark.parametrize("budget", [len(OK_IN_DATASET) + 1, "1%"])
def test_a_budget_of_no_rows_or_above_the_pool_is_refused(
    inputs: dict[str, Artifact], tmp_path: Path, budget: int | str
) -> None:
    with pytest.raises(ConfigError, match=r"select\.budget"):
        select_in(tmp_path, inputs, method="random", budget=budget)
    assert list(tmp_path.iterdir()) == []


def test_a_share_of_the_pool_is_rounded_down(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    _, selected, _ = select_in(tmp_path, inputs, method="random", budget="25%")
    assert len(selected) == len(OK_IN_DATASET) // 4
