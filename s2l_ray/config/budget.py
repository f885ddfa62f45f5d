"""Budgets: numbers of rows, shares of the pool such as `10%`, or numbers of tokens."""

import math
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Annotated

from pydantic import BeforeValidator

from s2l_ray.errors import ConfigError

ROWS = "rows"
TOKEN_UNITS = ("target_tokens", "tokens")


def _rows_or_share(value: object) -> object:
    """A share stays text, in one form: `10%` for `10.0%`. A number must be a count of rows."""
    if isinstance(value, str) and value.endswith("%"):
        if not 0 < share_of(value) <= 1:
            raise ValueError(f"{value} is not a share of the pool; write 0.1% to 100%")
        return f"{Decimal(value.removesuffix('%')).normalize():f}%"
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError(
            f"{value!r} is neither a number of rows nor a share; write a positive number of rows, or a share like 10%"
        )
    return value


Budget = Annotated[int | str, BeforeValidator(_rows_or_share)]


def share_of(text: str) -> Fraction:
    """The exact value of a percentage: `0.57%` is 57/10,000. Raises `ValueError` for another text."""
    try:
        return Fraction(Decimal(text.removesuffix("%"))) / 100
    except (InvalidOperation, OverflowError) as error:
        raise ValueError(f"{text} is not a share; write a percentage like 10%") from error


def _rows_or_tokens(value: object) -> object:
    if not isinstance(value, dict):
        return _rows_or_share(value)
    unit, amount = next(iter(value.items()), (None, None))
    if len(value) != 1 or unit not in TOKEN_UNITS or isinstance(amount, bool) or not isinstance(amount, int):
        raise ValueError(f"{value!r} is no budget in tokens; write {{target_tokens: N}} or {{tokens: N}}")
    if amount < 1:
        raise ValueError(f"{value!r} is no token; write at least 1")
    return value


# rows, a share of the rows with status ok, or {unit: tokens}
SubsetBudget = Annotated[int | str | dict[str, int], BeforeValidator(_rows_or_tokens)]


def budget_unit(budget: int | str | dict[str, int]) -> str:
    """The unit of a budget: rows, target_tokens, or tokens (of prompt and response)."""
    return next(iter(budget)) if isinstance(budget, dict) else ROWS


def budget_amount(budget: int | str | dict[str, int], rows_ok: int) -> int:
    """The budget in its unit; a percentage is the floor of that share of the rows with status ok."""
    if isinstance(budget, dict):
        return next(iter(budget.values()))
    return budget_rows(budget, rows_ok)


def budget_rows(budget: int | str, pool: int) -> int:
    """A budget in rows: an integer unchanged, a percentage as the floor of that share of the pool."""
    return math.floor(pool * share_of(budget)) if isinstance(budget, str) else budget


def check_budget(budget: int | str | dict[str, int], pool: Mapping[str, int]) -> int:
    """The budget in its unit. pool: size of the pool by unit.

    Raises `ConfigError` unless the budget is at least 1 and at most the pool.
    """
    unit, amount = budget_unit(budget), budget_amount(budget, pool[ROWS])
    if not 0 < amount <= pool[unit]:
        hint = f"set select.budget to at most {pool[unit]}" if amount else "raise select.budget"
        raise ConfigError(
            f"select.budget: {budget} is {amount} {unit}, and the pool has {pool[unit]}; {hint}",
            page="docs/methods.md#budgets-and-constraints",
        )
    return amount


def budget_share(budget: int | str | dict[str, int], pool: int) -> Fraction:
    """The budget as a share of the pool."""
    if isinstance(budget, str):
        return share_of(budget)
    return Fraction(budget_amount(budget, pool), pool)
