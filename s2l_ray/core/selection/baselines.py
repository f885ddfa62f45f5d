"""Baselines that need no model: what any selector has to beat."""

import numpy as np

from s2l_ray.core.selection.balancing import check_budget, draw_rows, source_budgets, source_rng
from s2l_ray.core.selection.pool import NoParams, Pool, Selection, selection_from_draws


def select_random(pool: Pool, budget: int, seed: int, params: NoParams) -> Selection:
    """Draw uniformly from the pool, without replacement."""
    check_budget(budget, len(pool))
    drawn = [draw_rows(len(pool), budget, source_rng(seed, ""))]
    return selection_from_draws(drawn, np.zeros(len(pool), np.int64), {})


def select_source_balanced(pool: Pool, budget: int, seed: int, params: NoParams) -> Selection:
    """Divide the budget over sources as S2L does, then draw uniformly inside each: the effect of balancing alone."""
    rows_by_source = pool.rows_by_source()
    budgets = source_budgets({source: len(rows) for source, rows in rows_by_source.items()}, budget)
    drawn = [
        rows[draw_rows(len(rows), budgets[source], source_rng(seed, source))] for source, rows in rows_by_source.items()
    ]
    whole = sum(budgets[source] == len(rows) for source, rows in rows_by_source.items())
    notes = {"sources": len(budgets), "sources_taken_whole": whole}
    return selection_from_draws(drawn, pool.source_N.astype(np.int64), notes)
