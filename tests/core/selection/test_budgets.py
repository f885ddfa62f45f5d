"""Constraints around a method: 1,000 random cases against their definitions, and cases computed by hand."""

from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.core.selection.budgets import Constraints, InfeasibleBudget, Method, select_within_budget
from s2l_ray.core.selection.pool import NoParams, Pool
from s2l_ray.core.selection.ranking import RankParams, select_ranked
from s2l_ray.core.selection.registry import SELECTORS
from s2l_ray.core.selection.s2l import S2LParams
from tests.core.selection.oracles import largest_remainder, prefixes

NAMES = ["b", "a", "c"]


def lowest(pool: Pool, amount: int, seed: int) -> object:
    return select_ranked(pool, amount, RankParams(), "lowest")


METHODS: dict[str, Method] = {
    "lowest": lowest,  # type: ignore[dict-item]
    "s2l": partial(lambda pool, amount, seed: SELECTORS["s2l"].select(pool, amount, seed, S2LParams())),
    "random": partial(lambda pool, amount, seed: SELECTORS["random"].select(pool, amount, seed, NoParams())),
}


@dataclass(frozen=True)
class Case:
    """A pool in which some rows have no score or cluster, and constraints on it."""

    pool: Pool
    constraints: Constraints
    method: str
    seed: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rows = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ids = [f"{number:08d}" for number in rng.permutation(rows)]
    score_N = rng.integers(0, 9, rows).astype(np.float32)
    score_N[rng.random(rows) < 0.1] = np.nan
    tokens = draw(st.booleans())
    pool = Pool(
        NAMES,
        rng.integers(0, 3, rows),
        rng.integers(-1 if rng.random() < 0.3 else 0, 4, rows),
        draw(st.sampled_from(["source", "none"])),
        score_N=score_N,
        prefix_N=prefixes(ids),
        read_ids=lambda index_M: [ids[row] for row in index_M.tolist()],
        weight_N=rng.integers(1, 20, rows) if tokens else None,
    )
    present = sorted({NAMES[code] for code in pool.source_N.tolist()})
    drop_N = rng.random(rows) < draw(st.sampled_from([0, 0.2]))
    keep_N = (rng.random(rows) < draw(st.sampled_from([0, 0.1]))) & ~drop_N
    shares = {
        name: Fraction(draw(st.integers(1, 5)), 10) for name in draw(st.sets(st.sampled_from(present), max_size=2))
    }
    caps = {name: draw(st.integers(0, 20)) for name in draw(st.sets(st.sampled_from(present), max_size=2))}
    constraints = Constraints(draw(st.integers(0, pool.amount())), shares, caps, keep_N, drop_N)
    return Case(pool, constraints, draw(st.sampled_from(sorted(METHODS))), draw(st.integers(0, 9)))


def check(case: Case, index_M: np.ndarray) -> None:
    """Every promise of the documentation."""
    pool, constraints = case.pool, case.constraints
    weight_N = np.ones(len(pool), int) if pool.weight_N is None else pool.weight_N
    selected = set(index_M.tolist())
    assert len(selected) == len(index_M) and index_M.tolist() == sorted(selected)
    assert constraints.keep_N is not None and constraints.drop_N is not None
    assert set(np.flatnonzero(constraints.keep_N).tolist()) <= selected
    assert not selected & set(np.flatnonzero(constraints.drop_N).tolist())
    assert all(pool.usable()[row] or constraints.keep_N[row] for row in selected)
    counts = Counter(NAMES[code] for code in pool.source_N[index_M].tolist())
    assert all(counts[name] <= cap for name, cap in constraints.caps.items())
    amounts = {
        name: int(weight_N[[row for row in selected if NAMES[pool.source_N[row]] == name]].sum()) for name in NAMES
    }
    total, largest = sum(amounts.values()), int(weight_N.max())
    others = 1 - sum(constraints.shares.values(), Fraction(0))
    names = [*sorted(constraints.shares), ""]
    quotas = dict(
        zip(
            names, shared_out([constraints.shares.get(name, others) for name in names], constraints.amount), strict=True
        )
    )
    if pool.weight_N is None:
        assert total == constraints.amount
        assert all(amounts[name] == quotas[name] for name in constraints.shares)
    else:
        assert constraints.amount - largest * 12 < total <= constraints.amount
        assert all(amounts[name] <= quotas[name] for name in constraints.shares)


def shared_out(shares: list[Fraction], amount: int) -> list[int]:
    denominator = 10 * max(1, amount)
    return largest_remainder([int(share * denominator) for share in shares], amount)


@settings(max_examples=1000)
@given(cases())
def test_constraints_hold_or_the_budget_is_infeasible(case: Case) -> None:
    try:
        selection = select_within_budget(case.pool, case.constraints, METHODS[case.method], case.seed)
    except InfeasibleBudget as error:
        assert 0 <= error.feasible < case.constraints.amount
        return
    except ValueError as error:
        assert "select.keep" in str(error) or "select.caps" in str(error)
        return
    check(case, selection.index_M)
    again = select_within_budget(case.pool, case.constraints, METHODS[case.method], case.seed)
    assert again.index_M.tolist() == selection.index_M.tolist()


@settings(max_examples=100)
@given(cases())
def test_the_largest_feasible_budget_is_feasible_and_the_next_is_not(case: Case) -> None:
    if case.pool.weight_N is not None:
        return
    try:
        select_within_budget(case.pool, case.constraints, METHODS[case.method], case.seed)
    except InfeasibleBudget as error:
        feasible = error.feasible
    except ValueError:
        return
    else:
        return
    for amount in range(feasible + 1, case.constraints.amount + 1):
        with pytest.raises(ValueError, match=r"select\."):
            select_within_budget(case.pool, replace(case.constraints, amount=amount), METHODS[case.method], case.seed)
    if feasible:
        smaller = replace(case.constraints, amount=feasible)
        check(
            replace(case, constraints=smaller),
            select_within_budget(case.pool, smaller, METHODS[case.method], 0).index_M,
        )


def ranked_pool(sources: str, scores: list[float]) -> Pool:
    """Rows of sources named by one letter each."""
    names = sorted(set(sources))
    source_N = np.array([names.index(letter) for letter in sources])
    return Pool(names, source_N, score_N=np.array(scores, np.float32))


def selected(pool: Pool, amount: int, **constraints: object) -> list[int]:
    return select_within_budget(pool, Constraints(amount, **constraints), METHODS["lowest"], 0).index_M.tolist()  # type: ignore[arg-type]


def test_a_capped_source_gives_its_first_rows_and_the_ranking_continues() -> None:
    pool = ranked_pool("aaabbb", [0, 1, 2, 3, 4, 5])
    assert selected(pool, 4) == [0, 1, 2, 3]
    assert selected(pool, 4, caps={"a": 2}) == [0, 1, 3, 4]
    assert selected(pool, 4, caps={"a": 3}) == [0, 1, 2, 3]


def test_shares_are_divided_by_largest_remainder() -> None:
    pool = ranked_pool("aaaabbbbcccc", list(range(12)))
    # 7 rows: 0.3 is 2.1, 0.3 is 2.1, and 2.8 are left for c.
    assert selected(pool, 7, shares={"a": Fraction(3, 10), "b": Fraction(3, 10)}) == [0, 1, 4, 5, 8, 9, 10]


def test_kept_rows_count_in_the_budget_their_share_and_their_cap() -> None:
    pool = ranked_pool("aaabbb", [0, 1, 2, 3, 4, 5])
    keep_N = np.array([False, False, True, False, False, True])
    assert selected(pool, 3, keep_N=keep_N) == [0, 2, 5]
    assert selected(pool, 3, keep_N=keep_N, caps={"a": 1}) == [2, 3, 5]
    assert selected(pool, 4, keep_N=keep_N, shares={"b": Fraction(1, 2)}) == [0, 2, 3, 5]
    with pytest.raises(ValueError, match=r"select\.keep"):
        selected(pool, 1, keep_N=keep_N)
    with pytest.raises(ValueError, match=r"select\.caps"):
        selected(pool, 3, keep_N=keep_N, caps={"b": 0})
    with pytest.raises(ValueError, match=r"select\.drop"):
        selected(pool, 3, keep_N=keep_N, drop_N=keep_N)


def test_a_dropped_row_is_no_part_of_the_pool() -> None:
    pool = ranked_pool("aaabbb", [0, 1, 2, 3, 4, 5])
    drop_N = np.array([True, False, False, True, False, False])
    assert selected(pool, 3, drop_N=drop_N) == [1, 2, 4]
    with pytest.raises(InfeasibleBudget) as caught:
        selected(pool, 5, drop_N=drop_N)
    assert caught.value.feasible == 4


def test_missing_values_are_excluded_and_counted() -> None:
    pool = ranked_pool("aaab", [np.nan, 1, np.nan, 0])
    selection = select_within_budget(pool, Constraints(2), METHODS["lowest"], 0)
    assert selection.index_M.tolist() == [1, 3]
    assert selection.notes == {"missing_values": 2}


def test_shares_above_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"select\.shares"):
        selected(ranked_pool("ab", [0, 1]), 1, shares={"a": Fraction(3, 5), "b": Fraction(3, 5)})


def test_probabilities_under_constraints() -> None:
    """By hand: 4 of 10 rows of a by its share, 2 of which are kept, and 6 of 30 rows of b."""
    pool = Pool(["a", "b"], np.repeat([0, 1], [10, 30]))
    keep_N = np.arange(40) < 2
    constraints = Constraints(10, {"a": Fraction(2, 5)}, {}, keep_N)
    selection = select_within_budget(pool, constraints, METHODS["random"], 0)
    of_row = dict(zip(selection.index_M.tolist(), selection.probability_M.tolist(), strict=True))
    assert of_row[0] == of_row[1] == 1
    assert {of_row[row] for row in of_row if 2 <= row < 10} == {2 / 8}
    assert {of_row[row] for row in of_row if row >= 10} == {6 / 30}


def test_rows_of_a_capped_source_are_drawn_uniformly() -> None:
    pool = Pool(["a", "b"], np.repeat([0, 1], 20))
    times_N = np.zeros(40)
    for seed in range(3000):
        times_N[select_within_budget(pool, Constraints(20, {}, {"a": 3}), METHODS["random"], seed).index_M] += 1
    expected = 3000 * 3 / 20
    assert np.abs(times_N[:20] - expected).max() < 5 * np.sqrt(expected)


@pytest.mark.parametrize(("caps", "feasible"), [({"a": 1}, 17), ({"a": 1, "b": 2}, 13)])
def test_the_largest_feasible_budget_in_tokens_counts_kept_rows_and_capped_sources(
    caps: dict[str, int], feasible: int
) -> None:
    """By hand: 4 tokens of b are kept, a has 5 under its cap, and b has 8 more, or 4 under its cap."""
    pool = replace(ranked_pool("aaabbb", [0, 1, 2, 3, 4, 5]), weight_N=np.array([5, 5, 5, 4, 4, 4]))
    keep_N = np.arange(6) == 3
    with pytest.raises(InfeasibleBudget, match="26 is not feasible") as caught:
        selected(pool, 26, caps=caps, keep_N=keep_N)
    assert caught.value.feasible == feasible
    assert pool.weight_N is not None
    assert pool.weight_N[selected(pool, feasible, caps=caps, keep_N=keep_N)].sum() <= feasible
