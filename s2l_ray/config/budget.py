"""Budgets: numbers of rows, or shares of the pool such as `10%`."""

import math
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Annotated

from pydantic import BeforeValidator

from s2l_ray.errors import ConfigError


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


def budget_rows(budget: int | str, pool: int) -> int:
    """A budget in rows: an integer unchanged, a percentage as the floor of that share of the pool."""
    return math.floor(pool * share_of(budget)) if isinstance(budget, str) else budget


def check_budget(budget: int | str, pool: int) -> int:
    """The budget in rows. Raises `ConfigError` unless it is at least one row and at most the pool."""
    rows = budget_rows(budget, pool)
    if not 0 < rows <= pool:
        hint = f"set select.budget to at most {pool}" if rows else "raise select.budget"
        raise ConfigError(f"select.budget: {budget} is {rows} rows of the {pool} with status ok; {hint}")
    return rows
