"""Results of an experiment: one record an arm, over its seeds."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.catalog.compare import compare_clusters
from s2l_ray.catalog.comparison.subsets import SubsetSummary, compare_subsets, summarize
from s2l_ray.pipeline.experiment import ExperimentPlan

# methods whose first arm every other arm is compared with, besides the first arm of the file
REFERENCE_METHODS = ("s2l", "random")

# the subsets of one arm, by seed
Subsets = dict[int, Artifact]


@dataclass(frozen=True)
class ArmResult:
    """Means of one arm over its seeds; None where there is nothing to average.

    mean_length: target tokens of a row. sources: with at least one selected row. overlaps: by reference arm, shared
    rows over the rows of the smaller subset, for equal seeds. adjusted_rand: of the clusters and those of the first arm
    that has any, for equal seeds. stability: the same for each pair of different seeds of
    this arm. seconds: of selecting.
    """

    arm: str
    method: str
    seeds: int
    rows: float
    target_tokens: float | None
    mean_length: float | None
    sources: float
    overlaps: dict[str, float | None]
    adjusted_rand: float | None
    stability: float | None
    seconds: float | None


@dataclass(frozen=True)
class ExperimentResults:
    """Results by arm, in the order of the file. varied: the keys that a seed sets."""

    run: str
    seeds: tuple[int, ...]
    varied: tuple[str, ...]
    references: tuple[str, ...]
    arms: tuple[ArmResult, ...]


def experiment_results(planned: ExperimentPlan) -> ExperimentResults:
    """Results of the arms that have subsets. Raises `ConfigError` where one is not complete."""
    experiment, subsets = planned.experiment, planned.subsets()
    arms: dict[str, Subsets] = {}
    for one in experiment.jobs:
        if one.name in subsets:
            arms.setdefault(one.arm, {})[one.seed] = subsets[one.name]
    methods = {arm: jobs[0].config.select.method for arm, jobs in experiment.arms.items()}
    references = dict.fromkeys([*arms][:1])
    for method in REFERENCE_METHODS:
        references |= dict.fromkeys([arm for arm in arms if methods[arm] == method][:1])
    clustered = next((own for own in arms.values() if all(map(_has_clusters, own.values()))), {})
    return ExperimentResults(
        experiment.run,
        tuple(dict.fromkeys(job.seed for job in experiment.jobs)),
        experiment.varied,
        tuple(references),
        tuple(_arm_result(arm, own, {one: arms[one] for one in references}, clustered) for arm, own in arms.items()),
    )


def _arm_result(arm: str, own: Subsets, references: dict[str, Subsets], clustered: Subsets) -> ArmResult:
    summaries: list[SubsetSummary] = [summarize(arm, subset) for subset in own.values()]
    overlaps = {
        reference: _mean(_overlap(own[seed], other[seed]) for seed in own) for reference, other in references.items()
    }
    return ArmResult(
        arm=arm,
        method=summaries[0].method,
        seeds=len(own),
        rows=fmean(one.rows for one in summaries),
        target_tokens=_mean(one.target_tokens for one in summaries),
        mean_length=_mean(one.mean_length for one in summaries),
        sources=fmean(len(one.by_source) for one in summaries),
        overlaps=overlaps,
        adjusted_rand=_mean(_adjusted_rand(own[seed], clustered.get(seed)) for seed in own),
        stability=_mean(_overlap(first, second) for first, second in combinations(own.values(), 2)),
        seconds=_mean(one.seconds for one in summaries),
    )


def _overlap(first: Artifact, second: Artifact) -> float | None:
    return compare_subsets(("", first), ("", second)).rows.overlap


def _has_clusters(subset: Artifact) -> bool:
    return "clusters" in subset.manifest.inputs


def _adjusted_rand(subset: Artifact, other: Artifact | None) -> float | None:
    """Agreement of the clusters of two subsets; None where one was selected without clusters."""
    if other is None or not _has_clusters(subset):
        return None
    first, second = subset.input("clusters"), other.input("clusters")
    return 1.0 if first.uri == second.uri else compare_clusters(("", first), ("", second)).adjusted_rand


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def result_columns(results: ExperimentResults) -> list[str]:
    """Headings of the table of results."""
    overlaps = [f"overlap with {name}" for name in results.references]
    return [
        *("arm", "method", "seeds", "rows", "target tokens", "mean length", "sources"),
        *overlaps,
        *("adjusted Rand index", "between seeds", "seconds"),
    ]


def result_rows(results: ExperimentResults) -> list[list[str | float | None]]:
    """The values below the headings, one row an arm."""
    return [
        [
            *(one.arm, one.method, one.seeds, one.rows, one.target_tokens, one.mean_length, one.sources),
            *one.overlaps.values(),
            *(one.adjusted_rand, one.stability, one.seconds),
        ]
        for one in results.arms
    ]
