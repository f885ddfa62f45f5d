"""Experiments: the plans of all arms, with what they share, and their runs one after the other.

An artifact that several arms need has one fingerprint, so the first arm builds it and the others find it complete.
"""

from collections.abc import Callable
from dataclasses import dataclass

from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import KINDS
from s2l_ray.config.experiment import ArmJob, Experiment
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.plan import Plan, PlannedStep, plan
from s2l_ray.pipeline.run import check_plan, run_plan


@dataclass(frozen=True)
class PlannedArm:
    """The plan of one arm and seed."""

    job: ArmJob
    plan: Plan

    def complete(self, kind: str) -> Artifact:
        """The artifact of a kind of the plan. Raises `ConfigError` where it is not complete."""
        step = self.plan[kind]
        if step.artifact is None:
            raise ConfigError(f"{self.job.config.run}: its {kind} is {step.state}; run the experiment")
        return step.artifact


@dataclass(frozen=True)
class SharedStep:
    """One artifact of an experiment, and the names of the arms' jobs that need it."""

    step: PlannedStep
    users: tuple[str, ...]


@dataclass(frozen=True)
class ExperimentPlan:
    """The plans of an experiment's jobs, in order."""

    experiment: Experiment
    arms: tuple[PlannedArm, ...]

    @property
    def steps(self) -> tuple[SharedStep, ...]:
        """Every artifact once: by kind, in the order in which kinds are built, then in the order of the arms."""
        users: dict[str, list[str]] = {}
        steps: dict[str, PlannedStep] = {}
        for arm in self.arms:
            for step in arm.plan.steps:
                users.setdefault(step.uri, []).append(arm.job.name)
                steps.setdefault(step.uri, step)
        order = sorted(steps, key=lambda uri: KINDS.index(steps[uri].kind))
        return tuple(SharedStep(steps[uri], tuple(users[uri])) for uri in order)

    @property
    def missing(self) -> tuple[SharedStep, ...]:
        """The artifacts that a run builds."""
        return tuple(shared for shared in self.steps if shared.step.to_build)

    def subsets(self) -> dict[str, Artifact]:
        """The subset of every job that has one, by its name. Raises `ConfigError` where one is not complete."""
        return {arm.job.name: arm.complete("subset") for arm in self.arms if "subset" in arm.plan}


def plan_experiment(experiment: Experiment, allow_version_change: bool = False) -> ExperimentPlan:
    """Plan every job of an experiment, like `plan`. A revision of the hub is the same commit in all of them."""
    arms: list[PlannedArm] = []
    for job in experiment.jobs:
        commits = arms[-1].plan.commits if arms else None
        planned = plan(job.config, experiment.to, allow_version_change=allow_version_change, commits=commits)
        arms.append(PlannedArm(job, planned))
    return ExperimentPlan(experiment, tuple(arms))


def check_experiment(planned: ExperimentPlan) -> None:
    """Raise for an arm that cannot be carried out, before any arm is run; the error names the arm."""
    for arm in planned.arms:
        try:
            check_plan(arm.plan)
        except ConfigError as error:
            raise ConfigError(f"arm {arm.job.arm}: {error}", page=error.page) from error


def run_experiment(planned: ExperimentPlan, carry_out: Callable[[Plan], Plan] = run_plan) -> ExperimentPlan:
    """Build what is missing of every job and return the plan as it ended. A repeated call resumes.

    carry_out: carries out the plan of one job.
    """
    check_experiment(planned)
    if not planned.missing:
        return planned
    from s2l_ray.runtime.session import connect

    with connect():
        for arm in planned.arms:
            allow = arm.plan.allow_version_change
            fresh = plan(arm.plan.config, arm.plan.to, allow_version_change=allow, commits=arm.plan.commits)
            if fresh.missing:  # earlier arms may have built it
                carry_out(fresh)
    return plan_experiment(planned.experiment)
