"""Budgets: numbers of rows, or shares of the pool such as `10%`."""

from typing import Annotated

from pydantic import BeforeValidator

from s2l_ray.errors import ConfigError


def _rows_or_share(value: object) -> object:
    """`10%` stays text; a number must be a count of rows."""
    if isinstance(value, str) and value.endswith("%"):
        share = float(value.removesuffix("%"))
        if not 0 < share <= 100:
            raise ValueError(f"{value} is not a share of the pool; write 0.1% to 100%")
        return value
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError(
            f"{value!r} is neither a number of rows nor a share; write a positive number of rows, or a share like 10%"
        )
    return value


Budget = Annotated[int | str, BeforeValidator(_rows_or_share)]


def budget_rows(budget: int | str, pool: int) -> int:
    """A budget in rows: an integer unchanged, a percentage as the floor of that share of the pool."""
    return int(pool * float(budget.removesuffix("%")) / 100) if isinstance(budget, str) else budget


def check_budget(budget: int | str, pool: int) -> int:
    """The budget in rows. Raises `ConfigError` unless it is at least one row and at most the pool."""
    rows = budget_rows(budget, pool)
    if not 0 < rows <= pool:
        hint = f"set select.budget to at most {pool}" if rows else "raise select.budget"
        raise ConfigError(f"select.budget: {budget} is {rows} rows of the {pool} with status ok; {hint}")
    return rows
