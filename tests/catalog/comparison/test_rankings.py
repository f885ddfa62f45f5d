"""Rank and smallest budget of a row, against selections with every budget."""

from typing import Any

import numpy as np
import pytest

from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.catalog.comparison.rankings import rank_of_row, read_ranking
from s2l_ray.catalog.pool import read_pool
from s2l_ray.config.select import Select
from s2l_ray.stages.select import choose
from tests.support.pool_artifacts import PoolRow, write_clusters, write_dataset, write_trajectories

SHARD, STEPS = 5, (0, 1)


def made_rows() -> list[PoolRow]:
    """Rows of three sources of very unequal sizes, with many equal losses and some rows that cannot be selected."""
    rng = np.random.default_rng(3)
    sources = ["large"] * 17 + ["small"] * 5 + ["tiny"]
    return [
        PoolRow(
            f"{rng.integers(10**6):06d}-{row}",
            source,
            "no_target_tokens" if row % 7 == 3 else "ok",
            (float(rng.integers(5)), float(rng.integers(4))),
            None if row % 7 == 3 else row % 3,
        )
        for row, source in enumerate(sources)
    ]


ROWS = made_rows()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    root = tmp_path_factory.mktemp("rankings")
    shards = [ROWS[start : start + SHARD] for start in range(0, len(ROWS), SHARD)]
    return {
        "dataset": write_dataset(f"{root}/dataset/{'d' * 12}", shards),
        "trajectories": write_trajectories(f"{root}/trajectories/{'1' * 12}", shards, STEPS, {"dataset": "d" * 12}),
        "clusters": write_clusters(f"{root}/clusters/{'1' * 12}", shards),
    }


@pytest.mark.parametrize("within", ["pool", "source", "clusters"])
@pytest.mark.parametrize("method", ["loss_low", "loss_high", "loss_middle", "middle_perplexity", "longest"])
def test_the_smallest_budget_is_the_first_that_selects_the_row(
    inputs: dict[str, Artifact], method: str, within: str
) -> None:
    ok = [row for row, one in enumerate(ROWS) if one.status == "ok"]
    select = Select(method=method, budget=1, within=within)
    ranking, pool = read_ranking(inputs, select, "."), read_pool(inputs, select, ".", lambda *_: None)
    assert ranking is not None
    chosen = {
        budget: {ok[index] for index in choose(pool, select, budget).index_M.tolist()}
        for budget in range(1, len(ok) + 1)
    }
    ranks = {row: rank_of_row(ranking, select, row // SHARD, row % SHARD) for row in range(len(ROWS))}
    for row, rank in ranks.items():
        assert (rank is not None) == (row in ok)
        if rank is not None:
            assert rank.smallest_budget == min(budget for budget, rows in chosen.items() if row in rows)
    if within == "pool":
        assert sorted(rank.rank for rank in ranks.values() if rank) == list(range(1, len(ok) + 1))


@pytest.mark.parametrize(
    "keys", [{"method": "random"}, {"method": "s2l"}, {"method": "source_balanced"}, {"method": "k_center"}]
)
def test_methods_that_do_not_rank_have_no_ranking(inputs: dict[str, Artifact], keys: dict[str, Any]) -> None:
    assert read_ranking(inputs, Select(budget=1, **keys), ".") is None


@pytest.mark.parametrize(
    "keys",
    [
        {"method": "loss_low", "caps": {"large": 1}},
        {"method": "learning_percentage", "first": 1, "last": 1, "compat": "official"},
    ],
)
def test_a_budget_with_constraints_has_a_rank_but_no_smallest_budget(
    inputs: dict[str, Artifact], keys: dict[str, Any]
) -> None:
    select = Select(budget=3, **keys)
    ranking = read_ranking(inputs, select, ".")
    assert ranking is not None
    rank = rank_of_row(ranking, select, 0, 0)
    assert rank is not None and rank.smallest_budget is None
