"""Other selections from the same table: their overlap with the subset, and that of the method with itself."""

from collections.abc import Iterator

import numpy as np
from pydantic import ValidationError

from s2l_ray import storage
from s2l_ray.artifacts.facts import DatasetFacts, SubsetFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.catalog.compare import Compared
from s2l_ray.catalog.pool import read_pool
from s2l_ray.catalog.pool_columns import columns_of_needs
from s2l_ray.config.budget import check_budget
from s2l_ray.config.select import Select
from s2l_ray.core.arrays import Int64
from s2l_ray.core.selection.registry import SELECTORS
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.compare import stability
from s2l_ray.reporting.pool import Parts, first_rows, selected_numbers
from s2l_ray.reporting.records.comparisons import MethodOverlap, Methods, SeedOverlap
from s2l_ray.stages.select import choose

SEEDS = 3
# each method reads the pool once; in a larger pool only those that read no losses are compared
LARGE_POOL = 200_000


def methods(parts: Parts) -> Methods | None:
    """Overlaps of the subset with those of other methods; None without a subset whose job is recorded."""
    subset = parts.get("subset")
    if subset is None or not subset.manifest.config:
        return None
    own = Select.model_validate(subset.manifest.config["select"])
    root = storage.absolute(subset.manifest.config["data"]["root"])
    selected_M = selected_numbers(parts, first_rows(parts["dataset"]))
    found = tuple(_overlaps(parts, own, root, selected_M))
    return Methods(found, _stability(subset, own))


def _overlaps(parts: Parts, own: Select, root: str, selected_M: Int64) -> Iterator[MethodOverlap]:
    """Overlaps, the largest first."""
    found = []
    for method in SELECTORS:
        numbers_M = _select(parts, own, method, root) if method != own.method else None
        if numbers_M is not None:
            shared = len(np.intersect1d(numbers_M, selected_M, assume_unique=True))
            smaller = max(1, min(len(numbers_M), len(selected_M)))
            pool = parts["subset"].facts(SubsetFacts).pool
            chance = max(len(numbers_M), len(selected_M)) / pool if pool else None
            found.append(
                MethodOverlap(method, SELECTORS[method].summary, len(numbers_M), shared, shared / smaller, chance)
            )
    yield from sorted(found, key=lambda one: (-one.overlap, one.method))


def _select(parts: Parts, own: Select, method: str, root: str) -> Int64 | None:
    """Row numbers that another method selects with the same budget, seed and constraints.

    None for methods that need a key or a statistic that the job does not have, and for those that compare rows.
    """
    large = parts["subset"].facts(SubsetFacts).pool > LARGE_POOL
    features = parts["clusters"].manifest.config.get("cluster", {}).get("features") if "clusters" in parts else None
    try:
        select = Select.model_validate({**own.model_dump(), "method": method})
        kinds = select.needs.inputs(features or "trajectories")
        if select.needs.features or not set(kinds) <= parts.keys() or (large and "trajectories" in kinds):
            return None
        columns_of_needs(select, parts)
        rows = read_pool({kind: parts[kind] for kind in kinds}, select, root, lambda done, total, unit: None)
        budget = check_budget(select.budget, parts["dataset"].facts(DatasetFacts).sizes)
        number_M: Int64 = rows.number_N[choose(rows, select, budget).index_M].astype(np.int64)
        return number_M
    except (ConfigError, ValidationError):
        return None


def _stability(subset: Artifact, own: Select) -> SeedOverlap | None:
    """The overlap between seeds; None for rankings, which have no seed, and for methods that compare rows."""
    draws = SELECTORS[own.method].score is None and own.needs.features is None
    if not draws or subset.facts(SubsetFacts).pool > LARGE_POOL:
        return None
    found = stability(subset.manifest.fingerprint, Compared.of(subset), SEEDS)
    return SeedOverlap(own.method, found.seeds, found.mean_overlap, found.lowest_overlap, found.by_chance)
