"""select: the pool of each method, the pointers of the subset, its counts and facts."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
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
    config = stage_config(folder, select=section)
    kinds = config.select.needs.inputs()
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
    assert {row["score"] for row in table} == {None}
    probabilities = {row["cluster"]: row["probability"] for row in table}
    assert probabilities == pytest.approx({0: 1.0, 1: 1.0, 2: 3 / 10, 3: 3 / 6, 4: 1.0})


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


def names_of(numbers: list[int]) -> str:
    return "\n".join(ROWS[number].example_id for number in numbers)


def test_rows_to_keep_and_to_drop(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    """By hand: 5 of small and 19 of large are scored; the budget counts the kept rows."""
    keep, drop = SCORED[:3], SCORED[3:10]
    (tmp_path / "keep.txt").write_text(names_of(keep) + "\n\n")
    (tmp_path / "drop.txt").write_text("\n".join(map(str, drop)))
    lists = {"keep": "keep.txt", "drop": ["drop.txt"]}
    product, selected, table = select_in(tmp_path, inputs, method="s2l", budget=12, **lists)
    assert set(keep) <= set(selected) and not set(drop) & set(selected) and len(selected) == 12
    assert [row["probability"] for row in table if row["example_id"] in names_of(keep)] == [1] * 3
    assert isinstance(product.facts, SubsetFacts)
    assert (product.facts.kept, product.facts.dropped, product.facts.selected) == (3, 7, 12)


@pytest.mark.parametrize(
    ("key", "line", "named"),
    [
        ("keep", "f" * 32, "f" * 32),
        ("drop", "nothing", "nothing"),
        ("keep", "99", "99"),
        ("keep", str(next(number for number, row in enumerate(ROWS) if row.status == "no_target_tokens")), "status"),
    ],
)
def test_a_list_with_a_row_that_cannot_be_selected_is_refused(
    inputs: dict[str, Artifact], tmp_path: Path, key: str, line: str, named: str
) -> None:
    (tmp_path / "rows.txt").write_text(line)
    with pytest.raises(ConfigError, match=named) as caught:
        select_in(tmp_path, inputs, method="random", budget=3, **{key: "rows.txt"})
    assert f"select.{key}" in str(caught.value)


def test_shares_and_caps_of_sources(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    for section, expected in (
        ({"shares": {"small": 0.25}}, {"small": 3, "large": 9}),
        ({"caps": {"small": 4}}, {"small": 4, "large": 8}),
        ({"caps": {"small": 0}}, {"large": 12}),
    ):
        _, _, table = select_in(tmp_path, inputs, method="s2l", budget=12, min_cluster_size=1, **section)
        assert Counter(row["source"] for row in table) == expected


def test_an_infeasible_budget_names_the_largest_feasible_one(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"largest feasible budget is 8\b"):
        select_in(tmp_path, inputs, method="s2l", budget=12, caps={"large": 3})
    with pytest.raises(ConfigError, match=r"largest feasible budget is 10\b"):
        select_in(tmp_path, inputs, method="s2l", budget=12, shares={"small": 0.5})
    with pytest.raises(ConfigError, match="smalll"):
        select_in(tmp_path, inputs, method="s2l", budget=12, shares={"smalll": 0.5})


def test_a_token_budget(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    product, selected, _ = select_in(tmp_path, inputs, method="random", budget={"target_tokens": 4 * 7 + 3})
    assert len(selected) == 7, "each row has four target tokens"
    assert isinstance(product.facts, SubsetFacts)
    assert (product.facts.unit, product.facts.budget, product.facts.selected) == ("target_tokens", 31, 28)


def test_a_ranking_by_a_column_of_a_file(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    """Rows without a value are excluded and counted; ties go to the smaller id."""
    values = {number: float(number // 3) for number in OK_IN_DATASET[4:]}
    table = pa.table({"example_id": [ROWS[number].example_id for number in values], "quality": list(values.values())})
    pq.write_table(table, tmp_path / "quality.parquet")
    section = {"method": "column", "path": "quality.parquet", "column": "quality", "order": "lowest"}
    product, selected, rows = select_in(tmp_path, inputs, budget=6, **section)
    assert selected == sorted(values, key=lambda number: (values[number], number))[:6]
    assert [row["score"] for row in rows] == [values[number] for number in selected]
    assert isinstance(product.facts, SubsetFacts)
    assert product.facts.notes == {"missing_values": 4}
