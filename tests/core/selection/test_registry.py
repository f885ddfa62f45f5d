"""Properties that every selector of the table has."""

from dataclasses import replace

import numpy as np
import pytest

from s2l_ray.artifacts.schemas import KINDS
from s2l_ray.core.selection.checkpoint_scores import ColumnParams
from s2l_ray.core.selection.pool import Pool
from s2l_ray.core.selection.registry import SELECTORS
from s2l_ray.core.selection.s2l import ClusterParams, S2LParams
from tests.core.selection.oracles import SIZES, pool_of

PARAMS = {"s2l": S2LParams(min_cluster_size=1), "random_clusters": ClusterParams(min_cluster_size=1)}
DRAWS = ("s2l", "random", "source_balanced", "stratified", "random_clusters")
OF_CLUSTERS = ("s2l", "random_clusters")
WITHOUT_PROXY = ("random", "source_balanced", "stratified", "longest", "shortest", "column")
GREEDY = ("facility_location", "k_center")


def params_of(name: str) -> object:
    """Params under which no cluster comes last, so that rows of equal groups have equal probabilities."""
    return (
        ColumnParams(path="values.parquet", column="value")
        if name == "column"
        else PARAMS.get(name, SELECTORS[name].params())
    )


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("group_by", ["source", "none"])
def test_every_selector_meets_the_budget_and_repeats(name: str, group_by: str) -> None:
    sizes = SIZES if name not in GREEDY else {"large": 90, "middle": 30, "small": 4}
    pool, params, select = pool_of(sizes, 6, group_by), params_of(name), SELECTORS[name].select
    for budget in (0, 1, 17, len(pool) // 3, len(pool)):
        first, again = select(pool, budget, 3, params), select(pool, budget, 3, params)
        assert len(first.index_M) == len(first.score_M) == len(first.probability_M) == budget
        assert (np.diff(first.index_M) > 0).all()
        assert np.array_equal(first.index_M, again.index_M)
    for seed in (3, 4):
        assert len(set(select(pool, len(pool) // 3, seed, params).index_M.tolist())) == len(pool) // 3
    other = select(pool, len(pool) // 3, 4, params).index_M
    third = select(pool, len(pool) // 3, 3, params).index_M
    assert np.array_equal(third, other) == (name not in (*DRAWS, "k_center"))


@pytest.mark.parametrize("name", SELECTORS)
def test_token_budgets_are_met_within_one_row_a_group(name: str) -> None:
    sizes = SIZES if name not in GREEDY else {"large": 90, "middle": 30, "small": 4}
    pool, params = pool_of(sizes, 6), params_of(name)
    weight_N = np.random.default_rng(1).integers(1, 90, len(pool))
    pool = replace(pool, weight_N=weight_N)
    for budget in (0, 1, 800, 4000, int(weight_N.sum())):
        selected = int(weight_N[SELECTORS[name].select(pool, budget, 3, params).index_M].sum())
        groups = {"s2l": 18, "random_clusters": 18, "stratified": 12, "random": 1}.get(name, 3)
        assert budget - 90 * groups < selected <= budget


@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_takes_an_empty_pool(name: str) -> None:
    pool = Pool([], np.zeros(0, np.int32), np.zeros(0, np.int32), score_N=np.zeros(0, np.float32))
    pool = replace(pool, target_tokens_N=np.zeros(0, int), feature_ND=np.zeros((0, 2), np.float32))
    assert len(SELECTORS[name].select(pool, 0, 0, params_of(name)).index_M) == 0


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("group_by", ["source", "none"])
def test_the_numbering_of_sources_does_not_matter(name: str, group_by: str) -> None:
    pool = pool_of({"large": 90, "middle": 30, "small": 4}, 6, group_by)
    reversed_names = replace(pool, source_names=list(pool.source_names)[::-1], source_N=2 - pool.source_N)
    expected = SELECTORS[name].select(pool, 40, 1, params_of(name))
    found = SELECTORS[name].select(reversed_names, 40, 1, params_of(name))
    assert np.array_equal(found.index_M, expected.index_M)
    assert np.array_equal(found.score_M, expected.score_M, equal_nan=True)
    assert np.array_equal(found.probability_M, expected.probability_M, equal_nan=True)


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("group_by", ["source", "none"])
def test_probability_is_that_of_being_drawn(name: str, group_by: str) -> None:
    pool = pool_of({"a": 6, "b": 14}, 2, group_by)
    draws, times_N, sum_N = 3000, np.zeros(len(pool)), np.zeros(len(pool))
    for seed in range(draws):
        selection = SELECTORS[name].select(pool, 8, seed, params_of(name))
        times_N[selection.index_M] += 1
        sum_N[selection.index_M] += 1 / selection.probability_M
    # Each row, weighted by the inverse of its probability, is expected once a draw.
    assert (np.abs(sum_N / draws - 1)[times_N > 0] < 0.2).all()


@pytest.mark.parametrize("name", SELECTORS)
def test_methods_that_draw_have_probabilities_and_others_scores(name: str) -> None:
    selection = SELECTORS[name].select(pool_of({"a": 30, "b": 14}, 2), 20, 0, params_of(name))
    assert np.isfinite(selection.probability_M).all() == (name in DRAWS)
    assert np.isnan(selection.score_M).all() == (name in DRAWS)


@pytest.mark.parametrize("name", SELECTORS)
def test_a_selector_reads_no_column_but_those_it_needs(name: str) -> None:
    selector, params = SELECTORS[name], params_of(name)
    whole, needs = pool_of({"large": 90, "middle": 30, "small": 4}, 6), selector.needs(params)
    bare = Pool(
        whole.source_names,
        whole.source_N,
        whole.cluster_N if needs.clusters else None,
        score_N=whole.score_N if selector.score else None,
        prefix_N=whole.prefix_N if selector.score else None,
        read_ids=whole.read_ids,
        target_tokens_N=whole.target_tokens_N if needs.target_tokens else None,
        feature_ND=whole.feature_ND if needs.features else None,
    )
    expected = selector.select(whole, 50, 0, params).index_M
    assert np.array_equal(selector.select(bare, 50, 0, params).index_M, expected)


@pytest.mark.parametrize("clustered", ["trajectories", "embeddings"])
@pytest.mark.parametrize("name", SELECTORS)
def test_inputs_follow_from_needs(name: str, clustered: str) -> None:
    needs = SELECTORS[name].needs(params_of(name))
    inputs = needs.inputs(clustered)
    assert inputs[0] == "dataset" and len(set(inputs)) == len(inputs)
    assert set(inputs) <= set(KINDS[:-1])
    assert ("trajectories" in inputs) == (
        name not in WITHOUT_PROXY and not (clustered == "embeddings" and name in OF_CLUSTERS)
    )
    assert ("clusters" in inputs) == (name in OF_CLUSTERS)


@pytest.mark.parametrize("name", [name for name in SELECTORS if "within" in SELECTORS[name].param_names()])
def test_inside_clusters_every_method_needs_clusters(name: str) -> None:
    params = replace(params_of(name), within="clusters")  # type: ignore[type-var]
    assert "clusters" in SELECTORS[name].needs(params).inputs()


def test_every_method_has_a_summary() -> None:
    assert all(selector.summary for selector in SELECTORS.values())
