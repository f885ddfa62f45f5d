"""S2L: budgets of sources, then of their clusters, against the naive simulation."""

from dataclasses import replace

import numpy as np
import pytest

from s2l_ray.core.selection.pool import Pool
from s2l_ray.core.selection.s2l import S2LParams, select_s2l
from tests.core.selection.oracles import SIZES, counts, oracle_counts, pool_of


@pytest.mark.parametrize("min_cluster_size", [1, 3, 35])
def test_sources_receive_their_budget_and_clusters_theirs(min_cluster_size: int) -> None:
    pool = pool_of(SIZES, clusters=6)
    assert pool.cluster_N is not None
    selection = select_s2l(pool, 400, 3, S2LParams(min_cluster_size))
    cluster_M, source_M = pool.cluster_N[selection.index_M], pool.source_N[selection.index_M]
    for source, budget in {"small": 40, "middle": 180, "large": 180}.items():
        code = list(pool.source_names).index(source)
        assert (source_M == code).sum() == budget
        expected = oracle_counts(pool.cluster_N[pool.source_N == code].tolist(), budget, min_cluster_size)
        assert counts(cluster_M[source_M == code]) == expected


@pytest.mark.parametrize("min_cluster_size", [1, 100])
def test_clusters_of_the_whole_pool_have_no_source_budget(min_cluster_size: int) -> None:
    pool = pool_of(SIZES, clusters=6, group_by="none")
    assert pool.cluster_N is not None
    selection = select_s2l(pool, 400, 3, S2LParams(min_cluster_size))
    expected = oracle_counts(pool.cluster_N.tolist(), 400, min_cluster_size)
    assert counts(pool.cluster_N[selection.index_M]) == expected


def test_one_cluster_id_in_two_sources_is_two_clusters() -> None:
    pool = Pool(["a", "b"], np.repeat([0, 1], 10), np.tile([0, 1], 10))
    selection = select_s2l(pool, 8, 0, S2LParams(1))
    assert counts(pool.source_N[selection.index_M] * 2 + pool.cluster_N[selection.index_M]) == {0: 2, 1: 2, 2: 2, 3: 2}
    assert selection.probability_M.tolist() == [0.4] * 8
    assert selection.notes["clusters"] == 4


def test_a_sources_draw_does_not_depend_on_the_other_sources() -> None:
    pool = pool_of(SIZES, clusters=6)
    assert pool.cluster_N is not None
    middle = list(pool.source_names).index("middle")
    whole = select_s2l(pool, 400, 3, S2LParams()).index_M
    own_N = np.flatnonzero(pool.source_N == middle)
    alone = select_s2l(Pool(["middle"], np.zeros(len(own_N), int), pool.cluster_N[own_N]), 180, 3, S2LParams())
    assert whole[pool.source_N[whole] == middle].tolist() == own_N[alone.index_M].tolist()


@pytest.mark.parametrize(("min_cluster_size", "tiny"), [(1, 0), (3, 1), (6, 3), (100, 4)])
def test_notes_count_clusters_and_tiny_clusters(min_cluster_size: int, tiny: int) -> None:
    pool = Pool(["a", "b"], np.repeat([0, 1], [11, 6]), np.repeat([0, 1, 2, 3], [2, 9, 3, 3]))
    notes = select_s2l(pool, 5, 0, S2LParams(min_cluster_size)).notes
    assert (notes["clusters"], notes["tiny_clusters"]) == (4, tiny)


def test_a_pool_without_clusters_is_refused() -> None:
    with pytest.raises(ValueError, match="clusters"):
        select_s2l(Pool(["a"], np.zeros(4, int)), 2, 0, S2LParams())


def test_an_unknown_grouping_is_refused() -> None:
    with pytest.raises(ValueError, match="sources"):
        select_s2l(replace(pool_of(SIZES, 2), group_by="sources"), 2, 0, S2LParams())


@pytest.mark.parametrize("min_cluster_size", [0, -1])
def test_a_cluster_size_below_one_is_refused(min_cluster_size: int) -> None:
    with pytest.raises(ValueError, match="min_cluster_size"):
        S2LParams(min_cluster_size)
