"""Budgets in rows, against exact fractions."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.config.budget import budget_rows, check_budget
from s2l_ray.errors import ConfigError


@settings(deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 100))
def test_a_whole_percentage_is_the_floor_of_its_share(pool: int, share: int) -> None:
    assert budget_rows(f"{share}%", pool) == int(Fraction(share, 100) * pool)


@pytest.mark.parametrize(
    ("budget", "pool", "rows"),
    [("100%", 7, 7), ("50%", 7, 3), ("0.5%", 1000, 5), ("12.5%", 1000, 125), ("0.1%", 999, 0), (5, 3, 5), (5, 100, 5)],
)
def test_budgets_by_hand(budget: int | str, pool: int, rows: int) -> None:
    assert budget_rows(budget, pool) == rows


@pytest.mark.parametrize(("budget", "pool"), [(1, 1), (7, 7), ("100%", 7), ("1%", 100)])
def test_a_budget_within_the_pool_is_returned(budget: int | str, pool: int) -> None:
    assert check_budget(budget, pool) == budget_rows(budget, pool)


@pytest.mark.parametrize(("budget", "pool"), [(8, 7), (1, 0), ("1%", 99), ("0.1%", 999), ("10%", 0)])
def test_a_budget_of_no_rows_or_beyond_the_pool_is_refused(budget: int | str, pool: int) -> None:
    with pytest.raises(ConfigError, match=r"select\.budget"):
        check_budget(budget, pool)
