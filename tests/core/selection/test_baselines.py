"""The selectors that need no model."""

import numpy as np
import pytest

from s2l_ray.core.selection.baselines import select_random, select_source_balanced
from s2l_ray.core.selection.pool import NoParams, Pool
from tests.core.selection.oracles import SIZES, counts, pool_of


def test_random_depends_on_the_number_of_rows_and_the_seed_alone() -> None:
    pool = pool_of(SIZES, clusters=6)
    one_source = Pool(["other"], np.zeros(len(pool), int))
    expected = select_random(one_source, 100, 7, NoParams())
    assert np.array_equal(select_random(pool, 100, 7, NoParams()).index_M, expected.index_M)
    assert expected.probability_M == pytest.approx(100 / 1240)


def test_random_is_uniform_over_the_pool() -> None:
    pool = Pool(["a", "b"], np.repeat([0, 1], [4, 16]))
    times_N = np.zeros(20)
    for seed in range(4000):
        times_N[select_random(pool, 5, seed, NoParams()).index_M] += 1
    assert np.abs(times_N / 4000 - 0.25).max() < 0.035  # five standard deviations


@pytest.mark.parametrize("budget", [-1, 21])
def test_a_budget_that_the_pool_cannot_meet_is_refused(budget: int) -> None:
    pool = Pool(["a", "b"], np.repeat([0, 1], [4, 16]))
    for select in (select_random, select_source_balanced):
        with pytest.raises(ValueError, match=r"select\.budget"):
            select(pool, budget, 0, NoParams())


def test_source_balanced_draws_equal_shares_uniformly() -> None:
    # 12 rows: floor(12/3) = 4 of 2, so both; then floor(10/2) = 5 of 10 and 5 of 20.
    pool = Pool(["twenty", "two", "ten"], np.repeat([0, 1, 2], [20, 2, 10]))
    times_N = np.zeros(32)
    for seed in range(4000):
        selection = select_source_balanced(pool, 12, seed, NoParams())
        assert counts(pool.source_N[selection.index_M]) == {0: 5, 1: 2, 2: 5}
        times_N[selection.index_M] += 1
    assert np.abs(times_N / 4000 - np.repeat([5 / 20, 1, 5 / 10], [20, 2, 10])).max() < 0.04
    assert selection.notes == {"sources": 3, "sources_taken_whole": 1}


def test_a_sources_draw_does_not_depend_on_the_other_sources() -> None:
    pool = pool_of(SIZES, clusters=6)
    middle = list(pool.source_names).index("middle")
    whole = select_source_balanced(pool, 400, 3, NoParams()).index_M
    own_N = np.flatnonzero(pool.source_N == middle)
    alone = select_source_balanced(Pool(["middle"], np.zeros(len(own_N), int)), 180, 3, NoParams())
    assert whole[pool.source_N[whole] == middle].tolist() == own_N[alone.index_M].tolist()


def test_a_name_without_rows_is_no_source() -> None:
    pool = Pool(["absent", "a"], np.ones(6, int))
    selection = select_source_balanced(pool, 4, 0, NoParams())
    assert len(selection.index_M) == 4
    assert selection.notes["sources"] == 1
