"""Planned against actual: the estimates of a run beside what its stages took."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from s2l_ray.artifacts.fingerprint import from_json
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.runs import read_history, read_plan
from s2l_ray.config.sections import Prices
from s2l_ray.errors import S2LError
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


def last_actual(root: str, run: str) -> tuple[ActualStep, ...]:
    """The stages of the newest run of this name that built something to its end; none where that is not recorded."""
    try:
        for entry in reversed(read_history(root, run)):
            steps = read_plan(root, run, entry.started).get("actual")
            if steps:
                return tuple(from_json(ActualStep, one) for one in steps)
    except (FileNotFoundError, S2LError, ValidationError):
        pass  # the report has its other sections
    return ()


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
