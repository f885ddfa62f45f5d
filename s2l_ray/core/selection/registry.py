"""SELECTORS: the table of selection methods. A new method is one function and one row.

A selector maps (pool, budget, seed, params) to exactly `budget` rows. Its result depends on the seed, the names of
sources and the ids of clusters, never on the order of execution.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

from s2l_ray.core.selection.baselines import select_random, select_source_balanced
from s2l_ray.core.selection.pool import NoParams, Selection
from s2l_ray.core.selection.s2l import S2LParams, select_s2l

SelectorParams = NoParams | S2LParams

Need = Literal["losses", "clusters"]

KINDS_OF_NEEDS: dict[Need, tuple[str, ...]] = {"losses": ("trajectories",), "clusters": ("trajectories", "clusters")}


@dataclass(frozen=True)
class Selector:
    """A row of SELECTORS.

    select: called with (Pool, budget, seed, params). needs: the columns of the pool that it reads besides the source.
    params: the dataclass of its own keys in the job's `select:` section.
    """

    select: Callable[[Any, int, int, Any], Selection]
    needs: tuple[Need, ...]
    params: type[SelectorParams]
    summary: str

    def inputs(self) -> tuple[str, ...]:
        """The kinds of artifact that hold the columns it needs; the dataset always."""
        return tuple(dict.fromkeys(("dataset", *(kind for need in self.needs for kind in KINDS_OF_NEEDS[need]))))

    def param_names(self) -> tuple[str, ...]:
        """Names of its own keys."""
        return tuple(column.name for column in fields(self.params))


SELECTORS: dict[str, Selector] = {
    "s2l": Selector(select_s2l, ("clusters",), S2LParams, "balanced over sources and clusters of loss trajectories"),
    "random": Selector(select_random, (), NoParams, "uniform over the pool"),
    "source_balanced": Selector(
        select_source_balanced, (), NoParams, "balanced over sources, uniform inside each source"
    ),
}
