"""The record of a report: every value that the page, the text and the JSON show, without a figure.

Values are None where nothing was recorded. They come from manifests, facts and tables of complete artifacts; what is
drawn from a sample names its size.
"""

from dataclasses import dataclass

from s2l_ray.pipeline.estimates.actual import ActualStep
from s2l_ray.reporting.records.comparisons import Evaluation, Experiment, Methods
from s2l_ray.reporting.records.pool import Lengths, Proxy, RowAccount, SourceCounts, StageRecord, Summary
from s2l_ray.reporting.records.trajectories import Clusters, Maps, Suspicion


@dataclass(frozen=True)
class Report:
    """Everything that a report shows of one job or subset. costs: planned and actual, of the run's last stages."""

    summary: Summary
    account: RowAccount
    sources: tuple[SourceCounts, ...]
    lengths: Lengths | None
    proxy: Proxy | None
    clusters: Clusters | None
    maps: Maps | None
    suspicions: tuple[Suspicion, ...]
    methods: Methods | None
    evaluation: Evaluation | None
    experiment: Experiment | None
    stages: tuple[StageRecord, ...]
    costs: tuple[ActualStep, ...] = ()
