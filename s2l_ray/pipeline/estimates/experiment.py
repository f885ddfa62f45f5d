"""Estimates of experiments: every missing artifact once, whatever the number of arms that need it."""

from dataclasses import replace

from s2l_ray.pipeline.estimates.job import JobEstimate, missing_steps, payback_of_plan, sizes_of_plan, with_sums
from s2l_ray.pipeline.estimates.record import measured_below
from s2l_ray.pipeline.estimates.steps import StepEstimate
from s2l_ray.pipeline.experiment import ExperimentPlan


def estimate_experiment(planned: ExperimentPlan) -> JobEstimate:
    """The estimate of the missing artifacts of an experiment, each once.

    The break-even point is that of the first arm with a subset.
    """
    first = next((arm.plan for arm in planned.arms if "subset" in arm.plan), planned.arms[0].plan)
    measured, steps = measured_below(planned.experiment.root), dict[str, StepEstimate]()
    for arm in planned.arms:
        for one in missing_steps(arm.plan, sizes_of_plan(arm.plan, measured.probe), measured):
            key = f"{one.kind}/{one.fingerprint or arm.job.name}"
            steps[key] = replace(one, users=steps[key].users + 1) if key in steps else one
    found = sizes_of_plan(first, measured.probe)
    paid = payback_of_plan(first, missing_steps(first, found, measured), found, measured)
    return with_sums(steps.values(), measured.probe, first.config.prices, paid)
