"""Comparison of complete artifacts: subsets, the trajectories they were selected from, and their clusters.

Rows of one dataset are matched by position, rows of different datasets by example_id. The matched columns of two
artifacts are held in memory.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.artifacts.facts import SubsetFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import OK
from s2l_ray.core.agreement import RankAgreement, SetAgreement, adjusted_rand_index, rank_agreement, set_agreement
from s2l_ray.core.arrays import Float64
from s2l_ray.errors import ConfigError

COMPARED = ("subset", "trajectories", "clusters")
ROW_BITS = 32


@dataclass(frozen=True)
class SubsetSummary:
    """One subset. pool: rows that it was selected from. seconds: of the selection."""

    name: str
    uri: str
    method: str
    rows: int
    pool: int
    by_source: dict[str, int]
    seconds: float | None


@dataclass(frozen=True)
class SubsetPair:
    """Two subsets, in whole and by source. by_chance: expected overlap of random subsets of these sizes."""

    first: str
    second: str
    rows: SetAgreement
    by_chance: float | None
    by_source: dict[str, SetAgreement]


@dataclass(frozen=True)
class RankPair:
    """Two rankings of the rows that both artifacts hold. score: the quantity that ranks them."""

    first: str
    second: str
    score: str
    agreement: RankAgreement


@dataclass(frozen=True)
class ClusterPair:
    """Two clusterings of the rows that have a cluster in both."""

    first: str
    second: str
    rows: int
    adjusted_rand: float


@dataclass(frozen=True)
class Comparison:
    """All that two or more artifacts have in common. Pairs of the same artifact are left out."""

    subsets: tuple[SubsetSummary, ...]
    subset_pairs: tuple[SubsetPair, ...]
    rankings: tuple[RankPair, ...]
    clusterings: tuple[ClusterPair, ...]


def compare(artifacts: Mapping[str, Artifact]) -> Comparison:
    """Compare artifacts by name, each with all others, and the trajectories and clusters that they were made from.

    Raises `ConfigError` for fewer than two artifacts, and for kinds that cannot be compared.
    """
    if len(artifacts) < 2:
        raise ConfigError(f"nothing to compare {', '.join(artifacts) or 'with'}; give at least two artifacts or jobs")
    parts = {name: _parts(artifact) for name, artifact in artifacts.items()}
    subsets = {name: own["subset"] for name, own in parts.items() if "subset" in own}
    pairs = combinations(subsets.items(), 2)
    rankings = [compare_trajectories(*pair) for pair in _different(parts, "trajectories")]
    return Comparison(
        tuple(summarize(name, subset) for name, subset in subsets.items()),
        tuple(compare_subsets(first, second) for first, second in pairs),
        tuple(pair for found in rankings for pair in found),
        tuple(compare_clusters(*pair) for pair in _different(parts, "clusters")),
    )


def _parts(artifact: Artifact) -> dict[str, Artifact]:
    """The artifact and its inputs that can be compared, by kind."""
    kind, inputs = artifact.manifest.kind, artifact.manifest.inputs
    if kind not in COMPARED:
        raise ConfigError(f"{artifact.uri}: is a {kind} artifact; compare takes {', '.join(COMPARED)}")
    return {kind: artifact, **{one: artifact.input(one) for one in COMPARED if one in inputs}}


Named = tuple[str, Artifact]


def _different(parts: Mapping[str, Mapping[str, Artifact]], kind: str) -> Iterator[tuple[Named, Named]]:
    """Pairs of different artifacts of a kind; an artifact that several share is named by the first."""
    first_names: dict[str, Named] = {}
    for name, own in parts.items():
        if kind in own:
            first_names.setdefault(own[kind].uri, (name, own[kind]))
    return combinations(first_names.values(), 2)


def summarize(name: str, subset: Artifact) -> SubsetSummary:
    facts, counts = subset.facts(SubsetFacts), subset.manifest.counts
    seconds = subset.manifest.timings.get("seconds")
    return SubsetSummary(name, subset.uri, facts.method, counts.kept, facts.pool, facts.by_source, seconds)


def compare_subsets(first: Named, second: Named) -> SubsetPair:
    """Overlap of two subsets, in whole and by source."""
    tables = [one.read_table(["example_id", "source", "shard", "row"]) for _, one in (first, second)]
    key = _row_ids if _same_dataset(first[1], second[1]) else _example_ids
    keys = [key(table) for table in tables]
    shared = pc.is_in(keys[0], keys[1])
    sizes = [Counter(table["source"].to_pylist()) for table in tables]
    both = Counter(tables[0]["source"].filter(shared).to_pylist())
    rows = set_agreement(len(tables[0]), len(tables[1]), sum(both.values()))
    pool = max(one.facts(SubsetFacts).pool for _, one in (first, second))
    by_chance = max(rows.first, rows.second) / pool if pool else None
    sources = sorted(sizes[0] | sizes[1])
    by_source = {name: set_agreement(sizes[0][name], sizes[1][name], both[name]) for name in sources}
    return SubsetPair(first[0], second[0], rows, by_chance, by_source)


def compare_clusters(first: Named, second: Named) -> ClusterPair:
    """Adjusted Rand index of two clusterings, over the rows that have a cluster in both."""
    cluster_N2 = _matched(first[1], second[1], "cluster", _clusters)
    kept_M2 = cluster_N2[np.isfinite(cluster_N2).all(axis=1)]
    return ClusterPair(first[0], second[0], len(kept_M2), adjusted_rand_index(kept_M2[:, 0], kept_M2[:, 1]))


def compare_trajectories(first: Named, second: Named) -> list[RankPair]:
    """Rank agreement of the loss at the last checkpoint, and of its fall since the first. Low losses rank first."""
    pairs = []
    for score, values in (("last loss", _last_loss), ("loss drop", _loss_drop)):
        score_N2 = _matched(first[1], second[1], "losses", values)
        pairs.append(RankPair(first[0], second[0], score, rank_agreement(score_N2[:, 0], score_N2[:, 1])))
    return pairs


def _same_dataset(first: Artifact, second: Artifact) -> bool:
    return first.input("dataset").uri == second.input("dataset").uri


def _row_ids(table: pa.Table) -> pa.Array:
    """The position of each row in its dataset as one number."""
    shard_M, row_M = (table[name].to_numpy().astype(np.int64) for name in ("shard", "row"))
    return pa.array((shard_M << ROW_BITS) + row_M)


def _example_ids(table: pa.Table) -> pa.Array:
    return table["example_id"].combine_chunks()


def _matched(first: Artifact, second: Artifact, column: str, values: Callable[[pa.Table], Float64]) -> Float64:
    """Values of the rows that both artifacts hold, (N, 2); NaN where one has none."""
    columns = ["example_id", *(["status"] if column == "losses" else []), column]
    tables = [one.read_table(columns) for one in (first, second)]
    value_N, other_N = (values(table) for table in tables)
    ids, other_ids = (_example_ids(table) for table in tables)
    if not ids.equals(other_ids):
        found = pc.index_in(ids, other_ids)
        value_N = value_N[found.is_valid().to_numpy(zero_copy_only=False)]
        other_N = other_N[found.drop_null().to_numpy()]
    return np.stack([value_N, other_N], axis=1)


def _clusters(table: pa.Table) -> Float64:
    return np.asarray(table["cluster"].cast(pa.float64()).to_numpy(zero_copy_only=False))


def _last_loss(table: pa.Table) -> Float64:
    return _losses(table)[:, -1]


def _loss_drop(table: pa.Table) -> Float64:
    losses_NT = _losses(table)
    return losses_NT[:, -1] - losses_NT[:, 0]


def _losses(table: pa.Table) -> Float64:
    """Losses (N, T), NaN for rows whose status is not ok."""
    ok_N = pc.equal(table["status"], OK).to_numpy()
    losses = table["losses"].filter(pa.array(ok_N)).combine_chunks()
    losses_NT = np.full((len(table), losses.type.list_size), np.nan)
    losses_NT[ok_N] = np.asarray(losses.flatten(), np.float64).reshape(-1, losses.type.list_size)
    return losses_NT
