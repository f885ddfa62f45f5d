"""Estimates of jobs: the missing steps, their sums, and the break-even point."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import KINDS_WITH_TEXT
from s2l_ray.config.sections import Prices
from s2l_ray.pipeline.costs import SELECTION_KINDS, Cost, artifact_cost, total_cost
from s2l_ray.pipeline.estimates.payback import Payback, payback
from s2l_ray.pipeline.estimates.record import Measured, ProbeRecord, measured_below
from s2l_ray.pipeline.estimates.sizes import PoolSize, Sizes, pool_of_artifact, pool_of_job, sizes
from s2l_ray.pipeline.estimates.steps import StepEstimate, estimate_step
from s2l_ray.pipeline.plan import Plan

VERSION = 1


@dataclass(frozen=True)
class JobEstimate:
    """The estimate of a run. steps: that it builds. ray_seconds: to start Ray, as measured by a probe.

    seconds, money, stored_bytes: of the whole run; None where that of any step is not known. known_seconds,
    known_money: sums of the known ones. storage_month: price of what the run stores, for a month.
    """

    steps: tuple[StepEstimate, ...]
    ray_seconds: float
    seconds: float | None
    known_seconds: float
    money: float | None
    known_money: float
    stored_bytes: float | None
    storage_month: float | None
    payback: Payback | None
    version: int = VERSION


def estimate_job(planned: Plan) -> JobEstimate:
    """The estimate of the missing steps of a job."""
    measured = measured_below(planned.config.root)
    found = sizes_of_plan(planned, measured.probe)
    steps = missing_steps(planned, found, measured)
    return with_sums(steps, measured.probe, planned.config.prices, payback_of_plan(planned, steps, found, measured))


def sizes_of_plan(planned: Plan, probe: ProbeRecord) -> Sizes:
    """The sizes of a job: of complete datasets, else of a probe, else of the job file."""
    kinds = [kind for kind in KINDS_WITH_TEXT if kind in planned] or ["dataset"]
    return sizes(planned.config, {kind: _pool(planned, kind, probe) for kind in kinds})


def _pool(planned: Plan, kind: str, probe: ProbeRecord) -> PoolSize:
    artifact, fingerprint = planned.artifact(kind), planned.fingerprints.get(kind, "")
    if artifact is not None:
        return pool_of_artifact(artifact)
    return probe.pools.get(fingerprint) or pool_of_job(planned.config, kind)


def missing_steps(planned: Plan, found: Sizes, measured: Measured) -> list[StepEstimate]:
    """The estimate of every step that a run builds."""
    return [estimate_step(step.kind, step.fingerprint, planned.config, found, measured) for step in planned.missing]


def payback_of_plan(planned: Plan, steps: Sequence[StepEstimate], found: Sizes, measured: Measured) -> Payback | None:
    """The break-even point, with the estimated costs of missing artifacts and the actual costs of the others."""
    if "subset" not in planned:
        return None
    missing = {one.kind: Cost(one.flops, one.seconds, one.money) for one in steps}
    prices, costs = planned.config.prices, dict[str, Cost]()
    for kind in SELECTION_KINDS:
        if kind in planned:
            artifact: Artifact | None = planned.artifact(kind)
            costs[kind] = missing[kind] if kind in missing else artifact_cost(artifact, prices)
    known = {kind: cost for kind, cost in costs.items() if cost.seconds is not None}
    unpriced = tuple(kind for kind in costs if kind not in known)
    counted = known or {kind: cost for kind, cost in costs.items() if cost.flops}
    selection = total_cost(counted.values()) if counted else Cost(None, None, None)
    return payback(planned.config, found, measured, selection, unpriced)


def with_sums(steps: Iterable[StepEstimate], probe: ProbeRecord, prices: Prices, paid: Payback | None) -> JobEstimate:
    """The estimate of a run that builds these steps."""
    parts = tuple(steps)
    ray = probe.ray_seconds if parts else 0.0
    seconds, known_seconds = _sums(one.seconds for one in parts)
    money, known_money = _sums(one.money for one in parts)
    stored, _ = _sums(one.stored_bytes for one in parts)
    price = prices.storage_gb_month
    return JobEstimate(
        steps=parts,
        ray_seconds=ray,
        seconds=seconds + ray if seconds is not None else None,
        known_seconds=known_seconds + ray,
        money=money,
        known_money=known_money,
        stored_bytes=stored,
        storage_month=stored / 1e9 * price if stored is not None and price is not None else None,
        payback=paid,
    )


def _sums(values: Iterable[float | None]) -> tuple[float | None, float]:
    """The sum, None where a value is not known, and that of the known values."""
    given = list(values)
    known = float(sum(value for value in given if value is not None))
    return (None if None in given else known), known
