"""Selectors against rules written a second time, by hand and as naive simulations."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.core.selection.registry import SELECTORS, Draw, Pool, balanced_sample, learning_percentage, source_budgets


def oracle_counts(labels: list[int], budget: int, min_cluster_size: int) -> dict[int, int]:
    """Take the smallest cluster left, give it an equal share of what is left, until no cluster is left."""
    members: dict[int, int] = {}
    for label in labels:
        members[label] = members.get(label, 0) + 1
    taken = dict.fromkeys(members, 0)
    waiting = {label for label in members if members[label] >= min_cluster_size}
    tiny = set(members) - waiting
    remaining = budget
    for group in (waiting, tiny):
        while group:
            smallest = min(group, key=lambda label: (members[label], label))
            while taken[smallest] < members[smallest] and taken[smallest] + 1 <= Fraction(remaining, len(group)):
                taken[smallest] += 1
            remaining -= taken[smallest]
            group.remove(smallest)
    return {label: count for label, count in taken.items() if count}


@st.composite
def labelled_pools(draw: st.DrawFn) -> tuple[list[int], int, int, int]:
    sizes = draw(st.dictionaries(st.integers(0, 400), st.integers(1, 40), max_size=12))
    labels = draw(st.permutations([label for label, size in sizes.items() for _ in range(size)]))
    return labels, draw(st.integers(0, len(labels))), draw(st.integers(0, 8)), draw(st.integers(0, 2**32))


@settings(max_examples=1000, deadline=None)
@given(labelled_pools())
def test_balanced_sample_agrees_with_the_oracle(case: tuple[list[int], int, int, int]) -> None:
    labels, budget, min_cluster_size, seed = case
    index_M = balanced_sample(labels, budget, np.random.default_rng(seed), min_cluster_size=min_cluster_size)
    assert len(index_M) == budget == len(set(index_M.tolist()))
    assert index_M.tolist() == sorted(index_M.tolist())
    found, counts = np.unique(np.asarray(labels, int)[index_M], return_counts=True)
    assert dict(zip(found.tolist(), counts.tolist(), strict=True)) == oracle_counts(labels, budget, min_cluster_size)


def test_balanced_sample_by_hand() -> None:
    # Sizes 1, 2, 5, 8 and a budget of 10: 1 of 10/4, 2 of 9/3, floor(7/2) = 3, and the 4 that are left.
    labels_N = np.repeat([7, 3, 9, 1], [1, 2, 5, 8])
    index_M = balanced_sample(labels_N, 10, np.random.default_rng(0))
    assert np.bincount(labels_N[index_M])[[7, 3, 9, 1]].tolist() == [1, 2, 3, 4]
    # With tiny clusters last: floor(10/2) = 5 of 5, 5 of 8, and nothing is left for the two.
    index_M = balanced_sample(labels_N, 10, np.random.default_rng(0), min_cluster_size=3)
    assert np.bincount(labels_N[index_M], minlength=10)[[7, 3, 9, 1]].tolist() == [0, 0, 5, 5]


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


@pytest.mark.parametrize(("budget", "remedy"), [(5, "lower select.budget"), (-1, "at least 0")])
def test_a_budget_that_cannot_be_met_is_refused(budget: int, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        balanced_sample([0, 0, 1, 1], budget, np.random.default_rng(0))
    with pytest.raises(ValueError, match=remedy):
        source_budgets({"a": 1, "b": 3}, budget)


def test_a_row_without_a_cluster_is_refused() -> None:
    with pytest.raises(ValueError, match="only rows that have one"):
        balanced_sample([0, -1], 1, np.random.default_rng(0))


def test_source_budgets_by_hand() -> None:
    # floor(100/4) = 25 of 60 and of 60 after 10 and 20 are taken whole: floor(70/2) = 35, then 35.
    assert source_budgets({"d": 60, "b": 20, "c": 60, "a": 10}, 100) == {"a": 10, "b": 20, "c": 35, "d": 35}
    assert source_budgets({"b": 5, "a": 5, "c": 5}, 7) == {"a": 2, "b": 2, "c": 3}
    assert source_budgets({}, 0) == {}


def pool_of(sizes: dict[str, int], clusters: int, order_seed: int = 0) -> Pool:
    """Rows of the sources in a shuffled order, with clusters numbered over the run, sources in name order."""
    rng = np.random.default_rng(order_seed)
    names = sorted(sizes)
    source_N = rng.permutation(np.repeat(np.arange(len(names)), [sizes[name] for name in names]))
    return Pool(names, source_N, source_N * clusters + rng.integers(0, clusters, len(source_N)))


SIZES = {"large": 900, "middle": 300, "small": 40}


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("group_by", ["source", "none"])
def test_every_selector_meets_the_budget_and_repeats(name: str, group_by: str) -> None:
    pool = pool_of(SIZES, clusters=6)
    for budget in (0, 1, 17, 400, len(pool)):
        draw = Draw(budget, seed=3, group_by=group_by)
        first, again = SELECTORS[name].select(pool, draw), SELECTORS[name].select(pool, draw)
        assert len(first.index_M) == len(first.score_M) == budget
        assert (np.diff(first.index_M) > 0).all()
        assert np.isfinite(first.score_M).all()
        assert np.array_equal(first.index_M, again.index_M)
    other = SELECTORS[name].select(pool, Draw(400, seed=4, group_by=group_by))
    assert not np.array_equal(SELECTORS[name].select(pool, Draw(400, 3, group_by=group_by)).index_M, other.index_M)


def test_s2l_gives_sources_their_budget_and_clusters_theirs() -> None:
    pool = pool_of(SIZES, clusters=6)
    assert pool.label_N is not None
    selection = SELECTORS["s2l"].select(pool, Draw(400, seed=3, min_cluster_size=1))
    label_M, source_M = pool.label_N[selection.index_M], pool.source_N[selection.index_M]
    for source, budget in {"small": 40, "middle": 180, "large": 180}.items():
        code = list(pool.source_names).index(source)
        assert (source_M == code).sum() == budget
        drawn = np.unique(label_M[source_M == code], return_counts=True)
        expected = oracle_counts(pool.label_N[pool.source_N == code].tolist(), budget, 1)
        assert dict(zip(drawn[0].tolist(), drawn[1].tolist(), strict=True)) == expected


def test_s2l_over_the_whole_pool_has_no_source_budget() -> None:
    pool = pool_of(SIZES, clusters=6)
    assert pool.label_N is not None
    selection = SELECTORS["s2l"].select(pool, Draw(400, seed=3, min_cluster_size=1, group_by="none"))
    drawn = np.unique(pool.label_N[selection.index_M], return_counts=True)
    expected = oracle_counts(pool.label_N.tolist(), 400, 1)
    assert dict(zip(drawn[0].tolist(), drawn[1].tolist(), strict=True)) == expected


@pytest.mark.parametrize("name", ["s2l", "source_balanced"])
def test_a_sources_draw_depends_on_its_name_and_not_on_the_numbering_of_sources(name: str) -> None:
    pool = pool_of(SIZES, clusters=6)
    turned = Pool(list(pool.source_names)[::-1], 2 - pool.source_N, pool.label_N)
    draw = Draw(300, seed=1)
    expected = SELECTORS[name].select(pool, draw).index_M
    assert np.array_equal(SELECTORS[name].select(turned, draw).index_M, expected)


def test_score_is_the_probability_of_being_drawn() -> None:
    pool = pool_of({"a": 6, "b": 14}, clusters=2)
    draws = 3000
    for name in SELECTORS:
        times_N, score_N = np.zeros(len(pool)), np.full(len(pool), np.nan)
        for seed in range(draws):
            selection = SELECTORS[name].select(pool, Draw(8, seed, min_cluster_size=1))
            times_N[selection.index_M] += 1
            score_N[selection.index_M] = selection.score_M
        assert np.abs(times_N / draws - score_N).max() < 0.05


def test_s2l_says_what_it_lacks() -> None:
    with pytest.raises(ValueError, match="needs clusters"):
        SELECTORS["s2l"].select(Pool(["a"], np.zeros(4, int)), Draw(2, seed=0))
    with pytest.raises(ValueError, match="source or none"):
        SELECTORS["s2l"].select(pool_of(SIZES, 2), Draw(2, seed=0, group_by="sources"))


def plain_learning_percentage(perplexity_N3: np.ndarray) -> list[float]:
    values = []
    for before, first, last in perplexity_N3.tolist():
        values.append(0.0 if before == last else (before - first) / (before - last))
    return values


def test_learning_percentage_against_a_plain_loop() -> None:
    losses_NT = np.random.default_rng(0).gamma(3, 1, (500, 5))
    losses_NT[:20, 4] = losses_NT[:20, 1]
    expected = plain_learning_percentage(np.exp(losses_NT[:, [1, 2, 4]]))
    assert learning_percentage(losses_NT, start=1, first=2, last=4) == pytest.approx(expected, rel=1e-9)


def test_learning_percentage_on_published_perplexities(shared_data: Path) -> None:
    table = pq.read_table(shared_data / "trajectories" / "alpaca_perplexities.parquet")
    for model in ("opt-350m", "opt-2.7b", "llama2-13b"):
        perplexity_N4 = np.array(table[model].to_pylist())
        perplexity_N4 = perplexity_N4[np.isfinite(perplexity_N4).all(axis=1) & (perplexity_N4 > 0).all(axis=1)]
        expected_N = np.array(plain_learning_percentage(perplexity_N4[:, [0, 1, 3]]))
        found_N = learning_percentage(np.log(perplexity_N4), first=1, last=3)
        # The rounding of log and of the difference grows as the drop shrinks beside the perplexity itself.
        drop_N = np.abs(perplexity_N4[:, 0] - perplexity_N4[:, 3]) / perplexity_N4[:, 0]
        assert (np.abs(found_N - expected_N) <= 1e-13 * (1 + np.abs(expected_N)) / np.maximum(drop_N, 1e-300)).all()
        assert len(found_N) > 50_000


def test_learning_percentage_is_safe_where_perplexities_overflow() -> None:
    losses_NT = [
        [900.0, 800.0, 700.0],
        [1.0, 900.0, 901.0],
        [5.0, 4.0, 5.0],
        [1.0, 1000.0, 1.0 - 1e-9],
        [2.0, 2.0, 1.0],
    ]
    value_N = learning_percentage(losses_NT, first=1, last=2)
    assert value_N[:3] == pytest.approx([1.0, np.exp(-1), 0.0])
    assert value_N[3] == -np.finfo(np.float64).max
    assert value_N[4] == 0
    with pytest.raises(ValueError, match="status ok"):
        learning_percentage([[1.0, np.nan, 1.0]], first=1, last=2)
