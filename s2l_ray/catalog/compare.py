"""Comparison of complete artifacts: subsets, the trajectories they were selected from, and their clusters.

Rows of one dataset are matched by position, rows of different datasets by example_id. The matched columns of two
artifacts are held in memory.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray import storage
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.catalog.comparison.rankings import Ranking, agreement_of_rankings, compare_trajectories, read_ranking
from s2l_ray.catalog.comparison.subsets import Named, SubsetPair, SubsetSummary, compare_subsets, summarize
from s2l_ray.config.select import Select
from s2l_ray.core.agreement import RankAgreement, adjusted_rand_index
from s2l_ray.core.arrays import Float64
from s2l_ray.errors import ConfigError

COMPARED = ("trajectories", "clusters", "subset")


@dataclass(frozen=True)
class Compared:
    """An artifact with those that it was made from, by kind, and the selection of its job, if that is known.

    root: folder at which relative paths of the job start.
    """

    artifact: Artifact
    parts: Mapping[str, Artifact]
    select: Select | None = None
    root: str = "."

    @classmethod
    def of(cls, artifact: Artifact) -> "Compared":
        """An artifact with its inputs, and the selection that its manifest records."""
        config, parts = artifact.manifest.config, _with_inputs(artifact)
        if "select" not in config:
            return cls(artifact, parts)
        return cls(artifact, parts, Select.model_validate(config["select"]), storage.absolute(config["data"]["root"]))

    @cached_property
    def ranking(self) -> Ranking | None:
        """The pool as its own method ranks it; None for a method that does not rank, or without what it reads."""
        if self.select is None or not set(self.select.needs.inputs()) <= self.parts.keys():
            return None
        return read_ranking(self.parts, self.select, self.root)


@dataclass(frozen=True)
class RankPair:
    """Two rankings of the rows that both artifacts hold. method: of both, or the methods of each."""

    first: str
    second: str
    method: str
    agreement: RankAgreement


@dataclass(frozen=True)
class ClusterPair:
    """Two clusterings of the rows that have a cluster in both."""

    first: str
    second: str
    rows: int
    adjusted_rand: float


@dataclass(frozen=True)
class Stability:
    """Overlap of the subsets that one method selects with different seeds, over all pairs of seeds.

    by_chance: expected overlap of random subsets of this size. seconds: mean time of one selection from the pool.
    """

    name: str
    method: str
    seeds: int
    rows: int
    mean_overlap: float
    lowest_overlap: float
    by_chance: float
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """All that two or more artifacts have in common. Pairs of the same artifact are left out."""

    subsets: tuple[SubsetSummary, ...]
    subset_pairs: tuple[SubsetPair, ...]
    rankings: tuple[RankPair, ...]
    clusterings: tuple[ClusterPair, ...]
    stability: tuple[Stability, ...] = ()


def _with_inputs(artifact: Artifact) -> dict[str, Artifact]:
    """An artifact and all that it was made from, but for checkpoints."""
    parts = {artifact.manifest.kind: artifact}
    for kind in artifact.manifest.inputs:
        if kind != "checkpoints":
            parts = _with_inputs(artifact.input(kind)) | parts
    return parts


def compare(compared: Mapping[str, Compared]) -> Comparison:
    """Compare artifacts by name, each with all others, and the trajectories and clusters that they were made from.

    Raises `ConfigError` for fewer than two artifacts, and for kinds that cannot be compared.
    """
    if len(compared) < 2:
        raise ConfigError(f"nothing to compare {', '.join(compared) or 'with'}; give at least two artifacts or jobs")
    for one in compared.values():
        if one.artifact.manifest.kind not in COMPARED:
            kind, kinds = one.artifact.manifest.kind, ", ".join(COMPARED)
            raise ConfigError(f"{one.artifact.uri}: is a {kind} artifact; compare takes {kinds}")
    subsets = {name: one.artifact for name, one in compared.items() if one.artifact.manifest.kind == "subset"}
    clusterings = _different(compared, "clusters")
    return Comparison(
        tuple(summarize(name, subset) for name, subset in subsets.items()),
        tuple(compare_subsets(first, second) for first, second in combinations(subsets.items(), 2)),
        tuple(_rankings(compared)),
        tuple(
            compare_clusters((first, compared[first].parts["clusters"]), (second, compared[second].parts["clusters"]))
            for first, second in clusterings
        ),
    )


def _different(compared: Mapping[str, Compared], kind: str) -> list[tuple[str, str]]:
    """Pairs of names whose artifacts of a kind differ; an artifact that several share is named by the first."""
    first_names: dict[str, str] = {}
    for name, one in compared.items():
        if kind in one.parts:
            first_names.setdefault(one.parts[kind].uri, name)
    return list(combinations(first_names.values(), 2))


def _rankings(compared: Mapping[str, Compared]) -> Iterator[RankPair]:
    """Agreement of the methods of the jobs, where both rank; then of all methods that rank by what is recorded in both
    of two different trajectories.
    """
    for (first, one), (second, other) in combinations(compared.items(), 2):
        if one.ranking is not None and other.ranking is not None and one.select and other.select:
            methods = dict.fromkeys([one.select.method, other.select.method])
            yield RankPair(first, second, " and ".join(methods), agreement_of_rankings(one.ranking, other.ranking))
    for first, second in _different(compared, "trajectories"):
        for method, agreement in compare_trajectories(compared[first].parts, compared[second].parts).items():
            yield RankPair(first, second, method, agreement)


def compare_clusters(first: Named, second: Named) -> ClusterPair:
    """Adjusted Rand index of two clusterings, over the rows that have a cluster in both."""
    cluster_N2 = _matched_clusters(first[1], second[1])
    kept_M2 = cluster_N2[np.isfinite(cluster_N2).all(axis=1)]
    return ClusterPair(first[0], second[0], len(kept_M2), adjusted_rand_index(kept_M2[:, 0], kept_M2[:, 1]))


def _matched_clusters(first: Artifact, second: Artifact) -> Float64:
    """Cluster ids of the rows that both artifacts hold, (N, 2); NaN where a row has none."""
    tables = [one.read_table(["example_id", "cluster"]) for one in (first, second)]
    cluster_N, other_N = (table["cluster"].cast(pa.float64()).to_numpy(zero_copy_only=False) for table in tables)
    ids, other_ids = (table["example_id"].combine_chunks() for table in tables)
    if not ids.equals(other_ids):
        found = pc.index_in(ids, other_ids)
        cluster_N = cluster_N[found.is_valid().to_numpy(zero_copy_only=False)]
        other_N = other_N[found.drop_null().to_numpy()]
    return np.stack([cluster_N, other_N], axis=1)
