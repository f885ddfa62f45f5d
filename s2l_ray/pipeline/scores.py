"""Scores of an experiment whose arms are trained: means over seeds, paired differences to one arm, costs, verdicts.

S seeds, Q held-out rows or questions
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from s2l_ray.artifacts.facts import EvaluationFacts, TargetFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import ANSWERS_FOLDER, LOSSES_TABLE
from s2l_ray.core.arrays import Float64
from s2l_ray.core.evaluation.statistics import Mean, PairedDifference, mean_of, paired_difference
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.costs import Cost, artifact_cost, mean_cost, selection_cost
from s2l_ray.pipeline.experiment import ExperimentPlan, PlannedArm

HELD_OUT, MACRO, MICRO = "held-out loss", "macro loss", "micro loss"
# in nats, and better where lower; every other score is that of a task in percent, better where higher
LOSSES = (HELD_OUT, MACRO, MICRO)
REFERENCE_METHOD = "random"


@dataclass(frozen=True)
class Score:
    """One score of one arm. values: by seed. difference: arm - reference arm; None for the reference itself."""

    values: dict[int, float]
    mean: Mean
    difference: PairedDifference | None


@dataclass(frozen=True)
class ArmScores:
    """Scores of one arm by name, and what selecting and training cost on average over its seeds."""

    arm: str
    trained_on: str
    scores: dict[str, Score]
    selection: Cost
    training: Cost


@dataclass(frozen=True)
class ExperimentScores:
    """Scores by arm, in the order of the file. varied: the keys that a seed sets. reference: an arm."""

    run: str
    seeds: tuple[int, ...]
    varied: tuple[str, ...]
    reference: str
    arms: tuple[ArmScores, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The scores of every arm, the main one first."""
        return tuple(self.arms[0].scores)


def experiment_scores(planned: ExperimentPlan) -> ExperimentScores:
    """Scores of an experiment up to `target` or `evaluation`. Raises `ConfigError` where an arm is not complete."""
    experiment = planned.experiment
    arms: dict[str, dict[int, PlannedArm]] = {name: {} for name in experiment.arms}
    for one in planned.arms:
        arms[one.job.arm][one.job.seed] = one
    random = (arm for arm, own in arms.items() if _is_random(next(iter(own.values()))))
    reference = experiment.reference or next(random, next(iter(arms)))
    measured = {arm: {seed: one.complete(experiment.to) for seed, one in own.items()} for arm, own in arms.items()}
    for arm, own in measured.items():
        _check_same_rows(arm, own, reference, measured[reference])
    return ExperimentScores(
        experiment.run,
        tuple(dict.fromkeys(job.seed for job in experiment.jobs)),
        experiment.varied,
        reference,
        tuple(
            _arm_scores(arm, own, measured[arm], None if arm == reference else measured[reference])
            for arm, own in arms.items()
        ),
    )


def _is_random(one: PlannedArm) -> bool:
    config = one.job.config
    return config.target.rows == "subset" and config.select.method == REFERENCE_METHOD


def _check_same_rows(
    arm: str, own: Mapping[int, Artifact], reference_arm: str, reference: Mapping[int, Artifact]
) -> None:
    """Raise `ConfigError` for an arm that has other numbers of held-out rows or questions than the reference."""
    for seed, one in own.items():
        if _numbers_of_rows(one) != _numbers_of_rows(reference[seed]):
            raise ConfigError(
                f"arm {arm}, seed {seed}: is evaluated on other held-out rows or questions than arm {reference_arm}, "
                "so their scores cannot be compared; set the keys of data and evaluate in the job, not in an arm"
            )


def _numbers_of_rows(artifact: Artifact) -> tuple[dict[str, int], dict[str, int]]:
    """Held-out rows by source, and questions by task; empty for a target, whose facts do not state them."""
    facts = artifact.manifest.facts
    if not isinstance(facts, EvaluationFacts):
        return {}, {}
    return facts.rows_by_source, {name: task.questions for name, task in facts.tasks.items()}


def _arm_scores(
    arm: str, planned: Mapping[int, PlannedArm], own: Mapping[int, Artifact], reference: Mapping[int, Artifact] | None
) -> ArmScores:
    """reference: of the arm to compare with; None for that arm itself."""
    by_seed = {seed: read_scores(one) for seed, one in own.items()}
    names = next(iter(by_seed.values()))
    scores = {}
    for name in names:
        values = {seed: found[name] for seed, found in by_seed.items()}
        difference = None if reference is None else _difference(name, own, reference)
        scores[name] = Score(values, mean_of(list(values.values())), difference)
    plans, first = list(planned.values()), next(iter(planned.values())).job.config
    return ArmScores(
        arm,
        first.select.method if first.target.rows == "subset" else first.target.rows,
        scores,
        mean_cost([selection_cost(one.plan, first.prices) for one in plans]),
        mean_cost([artifact_cost(one.complete("target"), first.prices) for one in plans]),
    )


def read_scores(artifact: Artifact) -> dict[str, float]:
    """The scores of an evaluation, or the held-out loss of a target, by name."""
    facts = artifact.manifest.facts
    if isinstance(facts, TargetFacts):
        found = {HELD_OUT: facts.held_out_loss}
    elif isinstance(facts, EvaluationFacts):
        tasks = {name: task.score for name, task in facts.tasks.items()}
        found = {MACRO: facts.macro_loss, MICRO: facts.micro_loss, **tasks}
    else:
        raise TypeError(f"{artifact.uri}: {artifact.manifest.kind} has no scores")
    scores = {name: value for name, value in found.items() if value is not None}
    if not scores:
        raise ConfigError(
            f"{artifact.uri}: has no score; hold out rows (data.held_out), or name tasks (evaluate.tasks)"
        )
    return scores


def _difference(name: str, own: Mapping[int, Artifact], reference: Mapping[int, Artifact]) -> PairedDifference:
    """Paired by row or question; with several seeds the mean over those is one value a seed."""
    if len(own) == 1:
        first_Q, second_Q = (_values(name, one) for artifacts in (own, reference) for one in artifacts.values())
        if first_Q is not None and second_Q is not None:
            return paired_difference(first_Q, second_Q)
    first_S1 = np.array([[read_scores(one)[name]] for one in own.values()])
    second_S1 = np.array([[read_scores(reference[seed])[name]] for seed in own])
    return paired_difference(first_S1, second_S1)


def _values(name: str, artifact: Artifact) -> Float64 | None:
    """Values of the held-out rows or questions, whose mean is the score, [Q]; None for a score that is no such mean.

    Of a macro average they are weighted, so that every source has the same weight; differences between sources then
    count as noise, which makes the interval of a single seed wider.
    """
    facts = artifact.manifest.facts
    if not isinstance(facts, EvaluationFacts) or (name in facts.tasks and facts.tasks[name].error is None):
        return None
    if name in facts.tasks:
        answers = artifact.read_file(f"{ANSWERS_FOLDER}{name}.parquet", ["question", "verdict"])
        by_question = answers.group_by("question", use_threads=False).aggregate([("verdict", "mean")])
        return np.asarray(by_question.sort_by("question")["verdict_mean"], np.float64)
    table = artifact.read_file(LOSSES_TABLE, ["source", "loss"])
    table = table.filter(pc.is_valid(table["loss"]))
    loss_Q, source_Q = np.asarray(table["loss"], np.float64), np.asarray(table["source"].cast("string"))
    if name == MICRO:
        return loss_Q
    names, number_Q, rows = np.unique(source_Q, return_inverse=True, return_counts=True)
    return np.asarray(loss_Q * len(loss_Q) / (len(names) * rows[number_Q]), np.float64)
