"""Properties that every selector of the table has."""

from dataclasses import replace

import numpy as np
import pytest

from s2l_ray.artifacts.schemas import KINDS
from s2l_ray.core.selection.pool import Pool
from s2l_ray.core.selection.registry import SELECTORS
from s2l_ray.core.selection.s2l import S2LParams
from tests.core.selection.oracles import SIZES, pool_of

PARAMS = {"s2l": S2LParams(min_cluster_size=1)}


def params_of(name: str) -> object:
    """Params under which the score is the probability of a row: no cluster comes last."""
    return PARAMS.get(name, SELECTORS[name].params())


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("group_by", ["source", "none"])
def test_every_selector_meets_the_budget_and_repeats(name: str, group_by: str) -> None:
    pool, params, select = pool_of(SIZES, 6, group_by), SELECTORS[name].params(), SELECTORS[name].select
    for budget in (0, 1, 17, 400, len(pool)):
        first, again = select(pool, budget, 3, params), select(pool, budget, 3, params)
        assert len(first.index_M) == len(first.score_M) == budget
        assert (np.diff(first.index_M) > 0).all()
        assert np.isfinite(first.score_M).all()
        assert np.array_equal(first.index_M, again.index_M)
    assert not np.array_equal(select(pool, 400, 3, params).index_M, select(pool, 400, 4, params).index_M)


@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_takes_an_empty_pool(name: str) -> None:
    pool = Pool([], np.zeros(0, np.int32), np.zeros(0, np.int32))
    assert len(SELECTORS[name].select(pool, 0, 0, SELECTORS[name].params()).index_M) == 0


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("group_by", ["source", "none"])
def test_the_numbering_of_sources_does_not_matter(name: str, group_by: str) -> None:
    pool = pool_of(SIZES, 6, group_by)
    reversed_names = replace(pool, source_names=list(pool.source_names)[::-1], source_N=2 - pool.source_N)
    expected = SELECTORS[name].select(pool, 300, 1, params_of(name))
    found = SELECTORS[name].select(reversed_names, 300, 1, params_of(name))
    assert np.array_equal(found.index_M, expected.index_M)
    assert np.array_equal(found.score_M, expected.score_M)


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("group_by", ["source", "none"])
def test_score_is_the_probability_of_being_drawn(name: str, group_by: str) -> None:
    pool = pool_of({"a": 6, "b": 14}, 2, group_by)
    draws, times_N, score_N = 3000, np.zeros(len(pool)), np.full(len(pool), np.nan)
    for seed in range(draws):
        selection = SELECTORS[name].select(pool, 8, seed, params_of(name))
        times_N[selection.index_M] += 1
        score_N[selection.index_M] = selection.score_M
    assert np.abs(times_N / draws - score_N).max() < 0.05


@pytest.mark.parametrize("name", SELECTORS)
def test_a_selector_reads_no_column_but_those_it_needs(name: str) -> None:
    selector = SELECTORS[name]
    whole = replace(pool_of(SIZES, 6), losses_NT=np.zeros((sum(SIZES.values()), 2), np.float32))
    bare = Pool(
        whole.source_names,
        whole.source_N,
        whole.cluster_N if "clusters" in selector.needs else None,
        whole.losses_NT if "losses" in selector.needs else None,
    )
    expected = selector.select(whole, 50, 0, selector.params()).index_M
    assert np.array_equal(selector.select(bare, 50, 0, selector.params()).index_M, expected)


@pytest.mark.parametrize("name", SELECTORS)
def test_inputs_follow_from_needs(name: str) -> None:
    selector = SELECTORS[name]
    inputs = selector.inputs()
    assert inputs[0] == "dataset" and len(set(inputs)) == len(inputs)
    assert set(inputs) <= set(KINDS[:-1])
    assert ("trajectories" in inputs) == bool(set(selector.needs) & {"losses", "clusters"})
    assert ("clusters" in inputs) == ("clusters" in selector.needs)


def test_methods_and_their_keys() -> None:
    assert {name: selector.param_names() for name, selector in SELECTORS.items()} == {
        "s2l": ("min_cluster_size",),
        "random": (),
        "source_balanced": (),
    }
    assert all(selector.summary for selector in SELECTORS.values())
