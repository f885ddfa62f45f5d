"""Planned against actual: the estimates of a run beside what its stages took."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.config.sections import Prices
from s2l_ray.pipeline.costs import artifact_cost
from s2l_ray.pipeline.estimates.steps import StepEstimate


@dataclass(frozen=True)
class ActualStep:
    """One stage of a run; None is not known.

    planned_seconds, planned_money, planned_bytes, planned_stored: the estimates, of time, price, memory of a worker and
    size of the artifact. source: of the estimated time. The other fields: what the stage took.
    """

    kind: str
    planned_seconds: float | None
    seconds: float | None
    planned_money: float | None
    money: float | None
    planned_bytes: float | None
    peak_bytes: float | None
    planned_stored: float | None
    stored_bytes: int
    source: str


def actual_steps(
    planned: Sequence[StepEstimate], built: Mapping[str, Artifact], prices: Prices
) -> tuple[ActualStep, ...]:
    """The estimated steps of a job that were built. built: by kind."""
    return tuple(_actual(one, built[one.kind], prices) for one in planned if one.kind in built)


def _actual(planned: StepEstimate, artifact: Artifact, prices: Prices) -> ActualStep:
    timings = artifact.manifest.timings
    return ActualStep(
        kind=planned.kind,
        planned_seconds=planned.seconds,
        seconds=timings.get("seconds"),
        planned_money=planned.money,
        money=artifact_cost(artifact, prices).money,
        planned_bytes=planned.host_bytes,
        peak_bytes=timings.get("peak_bytes"),
        planned_stored=planned.stored_bytes,
        stored_bytes=sum(file.bytes for file in artifact.manifest.files),
        source=planned.sources.get("seconds", ""),
    )
