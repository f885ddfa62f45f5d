"""SELECTORS: the ways to choose which examples of the pool to train on.

In: a `Pool` (what is known of its rows) and a `Draw` (how many, which seed). Out: a `Selection` of row numbers with
exactly the budget asked for. A draw depends on the seed, the source's name and the cluster's id, never on the order of
work. A new selector is one function and one row of SELECTORS.

Shapes: N rows of the pool, M rows selected, G groups (clusters or sources), T checkpoints.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from s2l_ray.core.selection.balancing import (
    Int64,
    Integers,
    balanced_sample,
    check_budget,
    draw_rows,
    rows_by_group,
    source_budgets,
)

__all__ = [
    "SELECTORS",
    "Draw",
    "Pool",
    "Selection",
    "Selector",
    "balanced_sample",
    "learning_percentage",
    "source_budgets",
]

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """The rows to choose from, all with status ok, in the order of the dataset. What a selector does not need is None.

    source_N holds positions in source_names (an Arrow dictionary's indices and values); their order is of no account.
    """

    source_names: Sequence[str]
    source_N: Integers
    label_N: Integers | None = None
    losses_NT: Float32 | None = None

    def __len__(self) -> int:
        return len(self.source_N)

    def rows_by_source(self) -> dict[str, Int64]:
        """Row numbers of each source that has any, ascending; sources in the order of their names."""
        by_source = rows_by_group(self.source_N)
        return {
            self.source_names[code]: by_source[code] for code in sorted(by_source, key=self.source_names.__getitem__)
        }


@dataclass(frozen=True)
class Draw:
    """How many rows to take, and by which seed. `group_by` is source (budgets for sources first) or none."""

    budget: int
    seed: int
    min_cluster_size: int = 3
    group_by: str = "source"


@dataclass(frozen=True)
class Selection:
    """index_M ascends. score_M is what chose the row: for draws, the probability with which it was taken."""

    index_M: Int64
    score_M: Float64
    notes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Selector:
    """A row of SELECTORS: the function, the kinds of artefact it reads, and what it does in a line."""

    select: Callable[[Pool, Draw], Selection]
    inputs: tuple[str, ...]
    summary: str


def learning_percentage(losses_NT: ArrayLike, *, start: int = 0, first: int, last: int) -> Float64:
    """LP(1) = (P_0 - P_1) / (P_0 - P_n) of arXiv 2402.10430, on perplexities P = exp(loss).

    `start`, `first` and `last` are the columns before training, after epoch 1 and at the end. 0 where the denominator
    is 0; outside [0, 1] where later epochs raise the perplexity again. Low means hard. Losses of any size are safe: a
    ratio beyond float64 is held at its largest number. ValueError for a loss that is not finite.
    """
    losses_N3 = np.asarray(losses_NT, np.float64)[:, [start, first, last]]
    if not np.isfinite(losses_N3).all():
        raise ValueError("learning percentage needs finite losses; pass only rows with status ok")
    to_first_N = losses_N3[:, 1] - losses_N3[:, 0]
    to_last_N = losses_N3[:, 2] - losses_N3[:, 0]
    scale_N = np.maximum(np.maximum(to_first_N, to_last_N), 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio_N = _relative_change(to_first_N, scale_N) / _relative_change(to_last_N, scale_N)
    largest = np.finfo(np.float64).max
    return np.where(to_last_N == 0, 0.0, np.clip(ratio_N, -largest, largest))


def _relative_change(change_N: Float64, scale_N: Float64) -> Float64:
    """(exp(change) - 1) / exp(scale) for scale >= max(change, 0): no overflow, and exact for a small change."""
    grown_N = -np.exp(np.maximum(change_N, 0) - scale_N) * np.expm1(-np.maximum(change_N, 0))
    shrunk_N = np.exp(-scale_N) * np.expm1(np.minimum(change_N, 0))
    return np.where(change_N > 0, grown_N, shrunk_N)


def _select_s2l(pool: Pool, draw: Draw) -> Selection:
    """Balanced over sources (where group_by says so), then over the clusters of each."""
    if pool.label_N is None:
        raise ValueError("selector s2l needs clusters and the pool has none; build them with --to clusters")
    if draw.group_by not in ("source", "none"):
        raise ValueError(f"group_by {draw.group_by!r} is unknown; write source or none")
    rows_by_source = pool.rows_by_source() if draw.group_by == "source" else {"": np.arange(len(pool))}
    budgets = source_budgets({source: len(rows) for source, rows in rows_by_source.items()}, draw.budget)
    chosen = [
        rows[
            balanced_sample(
                pool.label_N[rows],
                budgets[source],
                _generator(draw.seed, source),
                min_cluster_size=draw.min_cluster_size,
            )
        ]
        for source, rows in rows_by_source.items()
    ]
    group_N = pool.label_N.astype(np.int64)
    if draw.group_by == "source":
        group_N = group_N * len(pool.source_names) + pool.source_N
    sizes_G = np.unique(group_N, return_counts=True)[1]
    notes = {"clusters": len(sizes_G), "tiny_clusters": int((sizes_G < draw.min_cluster_size).sum())}
    return _selection(chosen, group_N, notes)


def _select_random(pool: Pool, draw: Draw) -> Selection:
    """Uniform over the pool."""
    check_budget(draw.budget, len(pool))
    chosen = [draw_rows(len(pool), draw.budget, _generator(draw.seed, ""))]
    return _selection(chosen, np.zeros(len(pool), np.int64), {})


def _select_source_balanced(pool: Pool, draw: Draw) -> Selection:
    """S2L's budgets for sources, uniform inside each: what balancing alone is worth."""
    rows_by_source = pool.rows_by_source()
    budgets = source_budgets({source: len(rows) for source, rows in rows_by_source.items()}, draw.budget)
    chosen = [
        rows[draw_rows(len(rows), budgets[source], _generator(draw.seed, source))]
        for source, rows in rows_by_source.items()
    ]
    whole = sum(budgets[source] == len(rows) for source, rows in rows_by_source.items())
    return _selection(chosen, pool.source_N.astype(np.int64), {"sources": len(budgets), "sources_taken_whole": whole})


SELECTORS: dict[str, Selector] = {
    "s2l": Selector(
        _select_s2l, ("trajectories", "clusters"), "balanced over sources and clusters of loss trajectories"
    ),
    "random": Selector(_select_random, ("dataset",), "uniform over the pool"),
    "source_balanced": Selector(_select_source_balanced, ("dataset",), "balanced over sources, uniform inside each"),
}


def _selection(chosen: Sequence[Int64], group_N: Int64, notes: Mapping[str, int]) -> Selection:
    """Rows with their inclusion probability: the share of their group that was drawn."""
    index_M = np.sort(np.concatenate([np.empty(0, np.int64), *chosen]))
    _, group_N, size_G = np.unique(group_N, return_inverse=True, return_counts=True)
    share_G = np.bincount(group_N[index_M], minlength=len(size_G)) / size_G
    return Selection(index_M, share_G[group_N[index_M]], notes)


def _generator(seed: int, source: str) -> np.random.Generator:
    """The generator of one source, or of the whole pool under the empty name."""
    digest = hashlib.sha256(source.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8])])
