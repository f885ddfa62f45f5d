"""The balancing rule against a naive simulation and against cases computed by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.core.selection.balancing import balanced_sample, draw_rows, rows_by_group, source_budgets, source_rng
from tests.core.selection.oracles import counts, oracle_counts


@st.composite
def labelled_pools(draw: st.DrawFn) -> tuple[list[int], int, int, int]:
    sizes = draw(st.dictionaries(st.integers(0, 400), st.integers(1, 40), max_size=12))
    labels = draw(st.permutations([label for label, size in sizes.items() for _ in range(size)]))
    return labels, draw(st.integers(0, len(labels))), draw(st.integers(0, 8)), draw(st.integers(0, 2**32))


@settings(max_examples=1000)
@given(labelled_pools())
def test_balanced_sample_agrees_with_the_oracle(case: tuple[list[int], int, int, int]) -> None:
    labels, budget, min_cluster_size, seed = case
    index_M = balanced_sample(labels, budget, np.random.default_rng(seed), min_cluster_size=min_cluster_size)
    assert len(index_M) == budget == len(set(index_M.tolist()))
    assert index_M.tolist() == sorted(index_M.tolist())
    assert counts(np.asarray(labels, int)[index_M]) == oracle_counts(labels, budget, min_cluster_size)


def test_balanced_sample_by_hand() -> None:
    # Sizes 1, 2, 5, 8 and a budget of 10: 1 of 10/4, 2 of 9/3, floor(7/2) = 3, and the 4 that are left.
    labels_N = np.repeat([7, 3, 9, 1], [1, 2, 5, 8])
    index_M = balanced_sample(labels_N, 10, np.random.default_rng(0))
    assert counts(labels_N[index_M]) == {7: 1, 3: 2, 9: 3, 1: 4}
    # With tiny clusters last: floor(10/2) = 5 of 5, 5 of 8, and nothing is left for the two.
    index_M = balanced_sample(labels_N, 10, np.random.default_rng(0), min_cluster_size=3)
    assert counts(labels_N[index_M]) == {9: 5, 1: 5}
    # A budget of 14 exhausts the large clusters (5 + 8), and one row is left: floor(1/2) = 0 of 1, then 1 of 2.
    index_M = balanced_sample(labels_N, 14, np.random.default_rng(0), min_cluster_size=3)
    assert counts(labels_N[index_M]) == {9: 5, 1: 8, 3: 1}


def test_of_clusters_of_one_size_the_larger_id_receives_the_remainder() -> None:
    labels_N = np.repeat([5, 2, 8], 4)
    index_M = balanced_sample(labels_N, 8, np.random.default_rng(0))
    assert counts(labels_N[index_M]) == {2: 2, 5: 3, 8: 3}


def test_pareto_sizes_meet_the_budget() -> None:
    sizes = np.ceil(20 * (1 + np.random.default_rng(1).pareto(1.2, 100))).astype(int)
    labels_N = np.repeat(np.arange(100), sizes)
    assert len(balanced_sample(labels_N, 3 * len(labels_N) // 4, np.random.default_rng(0))) == 3 * len(labels_N) // 4


def test_a_draw_is_uniform_inside_a_cluster() -> None:
    labels_N = np.repeat([0, 1], [4, 8])
    times_N = np.zeros(12)
    for seed in range(4000):
        times_N[balanced_sample(labels_N, 8, np.random.default_rng(seed))] += 1
    assert times_N[:4].tolist() == [4000] * 4
    assert np.abs(times_N[4:] / 4000 - 0.5).max() < 0.04  # five standard deviations


def test_a_clusters_draw_does_not_depend_on_the_other_clusters() -> None:
    labels_N = np.random.default_rng(0).integers(0, 5, 500)
    without_N = labels_N[labels_N != 2]
    whole = balanced_sample(labels_N, 50, np.random.default_rng(9))
    part = balanced_sample(without_N, 40, np.random.default_rng(9))
    rows_of_part = np.flatnonzero(labels_N != 2)[part]
    assert set(whole[labels_N[whole] != 2]) == set(rows_of_part)


@pytest.mark.parametrize("budget", [5, -1])
def test_a_budget_that_cannot_be_met_is_refused_by_its_key(budget: int) -> None:
    with pytest.raises(ValueError, match=r"select\.budget"):
        balanced_sample([0, 0, 1, 1], budget, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"select\.budget"):
        source_budgets({"a": 1, "b": 3}, budget)


def test_a_row_without_a_cluster_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        balanced_sample([0, -1], 1, np.random.default_rng(0))


def test_source_budgets_by_hand() -> None:
    # floor(100/4) = 25 of 60 and of 60 after 10 and 20 are drawn whole: floor(70/2) = 35, then 35.
    assert source_budgets({"d": 60, "b": 20, "c": 60, "a": 10}, 100) == {"a": 10, "b": 20, "c": 35, "d": 35}
    assert source_budgets({"b": 5, "a": 5, "c": 5}, 7) == {"a": 2, "b": 2, "c": 3}
    assert source_budgets({}, 0) == {}


@settings(max_examples=300)
@given(st.dictionaries(st.text(max_size=3), st.integers(0, 50), max_size=8), st.data())
def test_source_budgets_are_even(sizes: dict[str, int], data: st.DataObject) -> None:
    budget = data.draw(st.integers(0, sum(sizes.values())))
    budgets = source_budgets(sizes, budget)
    assert sum(budgets.values()) == budget and budgets.keys() == sizes.keys()
    assert all(0 <= budgets[name] <= sizes[name] for name in sizes)
    # Sources that are not exhausted differ by one row at most, and exhausted ones have at most one row more than they.
    left = [budgets[name] for name in sizes if budgets[name] < sizes[name]]
    if left:
        assert max(left) - min(left) <= 1
        assert max(budgets.values()) <= min(left) + 1


@given(st.lists(st.integers(0, 6), max_size=60))
def test_rows_by_group_against_a_loop(groups: list[int]) -> None:
    expected: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        expected.setdefault(group, []).append(row)
    found = rows_by_group(np.asarray(groups, np.int32))
    assert {group: rows.tolist() for group, rows in found.items()} == expected
    assert list(found) == sorted(expected)


def test_a_quota_of_the_whole_group_draws_nothing_at_random() -> None:
    rng = np.random.default_rng(0)
    assert draw_rows(5, 5, rng).tolist() == draw_rows(5, 9, rng).tolist() == [0, 1, 2, 3, 4]
    assert rng.random() == np.random.default_rng(0).random()


def test_sources_and_seeds_have_their_own_streams() -> None:
    first = [source_rng(seed, name).integers(2**63) for seed in (0, 1) for name in ("", "a", "b")]
    assert len(set(first)) == 6
    assert first == [source_rng(seed, name).integers(2**63) for seed in (0, 1) for name in ("", "a", "b")]
