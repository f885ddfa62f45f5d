"""Budgets in rows, against exact fractions."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from s2l_ray.config.budget import Budget, budget_rows, budget_share, budget_unit, check_budget
from s2l_ray.errors import ConfigError


@given(st.integers(0, 10**9), st.integers(1, 100))
def test_a_whole_percentage_is_the_floor_of_its_share(pool: int, share: int) -> None:
    assert budget_rows(f"{share}%", pool) == int(Fraction(share, 100) * pool)


@pytest.mark.parametrize(
    ("budget", "pool", "rows"),
    [
        ("100%", 7, 7),
        ("50%", 7, 3),
        ("0.5%", 1000, 5),
        ("12.5%", 1000, 125),
        ("0.1%", 999, 0),
        ("0.57%", 10_000, 57),
        (5, 3, 5),
    ],
)
def test_budgets_by_hand(budget: int | str, pool: int, rows: int) -> None:
    assert budget_rows(budget, pool) == rows


@pytest.mark.parametrize("text", ["10.0%", "10%", "1e1%", "+10.00%"])
def test_a_share_has_one_form(text: str) -> None:
    assert TypeAdapter(Budget).validate_python(text) == "10%"


@pytest.mark.parametrize("text", ["0%", "100.1%", "nan%", "inf%", "-1%", "ten%", "1/3%", "%"])
def test_other_texts_are_no_shares(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Budget).validate_python(text)


@pytest.mark.parametrize(("budget", "pool"), [(1, 1), (7, 7), ("100%", 7), ("1%", 100)])
def test_a_budget_within_the_pool_is_returned(budget: int | str, pool: int) -> None:
    assert check_budget(budget, {"rows": pool}) == budget_rows(budget, pool)


@pytest.mark.parametrize(("budget", "pool"), [(8, 7), (1, 0), ("1%", 99), ("0.1%", 999), ("10%", 0)])
def test_a_budget_of_no_rows_or_beyond_the_pool_is_refused(budget: int | str, pool: int) -> None:
    with pytest.raises(ConfigError, match=r"select\.budget"):
        check_budget(budget, {"rows": pool})


@pytest.mark.parametrize("unit", ["target_tokens", "tokens"])
def test_token_budgets(unit: str) -> None:
    pool = {"rows": 3, "target_tokens": 30, "tokens": 90}
    assert check_budget({unit: 30}, pool) == 30
    assert budget_unit({unit: 30}) == unit
    assert budget_unit("10%") == budget_unit(3) == "rows"
    with pytest.raises(ConfigError, match=str(pool[unit])):
        check_budget({unit: 91}, pool)


def test_a_budget_as_a_share() -> None:
    assert budget_share("1%", 52002) == Fraction(1, 100)
    assert budget_share("12.5%", 7) == Fraction(1, 8)
    assert budget_share(3, 12) == Fraction(1, 4)
