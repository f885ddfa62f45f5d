"""Baselines that need no model: what any selector has to beat.

N rows of the pool, G rows of a source.
"""

import numpy as np

from s2l_ray.core.arrays import Int32
from s2l_ray.core.selection.balancing import (
    amount_of,
    balanced_draws,
    check_budget,
    draw,
    draw_rows,
    source_budgets,
    source_rng,
)
from s2l_ray.core.selection.pool import NoParams, Pool, Selection, drawn_selection

QUARTILES = (0.25, 0.5, 0.75)


def select_random(pool: Pool, budget: int, seed: int, params: NoParams) -> Selection:
    """Draw uniformly from the pool, without replacement."""
    check_budget(budget, pool.amount())
    rng = source_rng(seed, "")
    if pool.weight_N is not None:
        return drawn_selection([draw(np.arange(len(pool)), budget, rng, pool.weight_N)])
    return drawn_selection([(draw_rows(len(pool), budget, rng), budget / max(1, len(pool)))])


def select_source_balanced(pool: Pool, budget: int, seed: int, params: NoParams) -> Selection:
    """Divide the budget over sources as S2L does, then draw uniformly inside each: the effect of balancing alone."""
    rows_by_source = pool.rows_by_source()
    sizes = {source: amount_of(rows, pool.weight_N) for source, rows in rows_by_source.items()}
    budgets = source_budgets(sizes, budget)
    drawn = [
        draw(rows, budgets[source], source_rng(seed, source), pool.weight_N) for source, rows in rows_by_source.items()
    ]
    whole = sum(budgets[source] == sizes[source] for source in sizes)
    return drawn_selection(drawn, {"sources": len(budgets), "sources_taken_whole": whole})


def select_stratified(pool: Pool, budget: int, seed: int, params: NoParams) -> Selection:
    """Balance the budget over strata (source x quartile of its target tokens), then draw uniformly inside each."""
    stratum_N = _strata(pool)
    draws = balanced_draws(stratum_N, budget, source_rng(seed, "stratified"), weight_N=pool.weight_N)
    return drawn_selection(draws, {"strata": len(draws)})


def _strata(pool: Pool) -> Int32:
    """The stratum of each row: its length exceeds the quartile boundaries of its source before that quartile."""
    if pool.target_tokens_N is None:
        raise ValueError("stratified needs the target tokens of every row")
    stratum_N = np.zeros(len(pool), np.int32)
    for number, rows in enumerate(pool.rows_by_source().values()):
        length_G = pool.target_tokens_N[rows]
        boundaries = np.quantile(length_G, QUARTILES)
        stratum_N[rows] = number * (len(QUARTILES) + 1) + np.searchsorted(boundaries, length_G)
    return stratum_N
