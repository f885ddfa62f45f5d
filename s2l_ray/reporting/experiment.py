"""The part of a report that belongs to an experiment: its arms, their scores and differences, and the verdicts."""

from s2l_ray.pipeline.experiment import ExperimentPlan
from s2l_ray.pipeline.results import ExperimentResults, experiment_results
from s2l_ray.pipeline.scores import LOSSES, ExperimentScores, experiment_scores
from s2l_ray.pipeline.verdicts import verdicts
from s2l_ray.reporting.records.comparisons import ArmRow, ArmScore, Experiment


def collect_experiment(planned: ExperimentPlan, shown: str) -> Experiment:
    """The results of an experiment. shown: the job that the other sections of the report describe.

    Raises `ConfigError` where an artifact of an arm is not complete.
    """
    results = experiment_results(planned)
    scores = experiment_scores(planned) if planned.experiment.to != "subset" else None
    return Experiment(
        run=results.run,
        shown=shown,
        seeds=results.seeds,
        varied=results.varied,
        arms=tuple(_arms(results, scores)),
        scores=scores.names if scores is not None else (),
        losses=tuple(name for name in scores.names if name in LOSSES) if scores is not None else (),
        reference=scores.reference if scores is not None else None,
        overlaps_with=results.references,
        verdicts=verdicts(scores) if scores is not None else {},
    )


def _arms(results: ExperimentResults, scores: ExperimentScores | None) -> list[ArmRow]:
    """One row an arm; an arm that trains on the whole pool, or not at all, has no selection."""
    selected = {one.arm: one for one in results.arms}
    measured = {one.arm: one for one in scores.arms} if scores is not None else {}
    rows = []
    for arm in dict.fromkeys([*measured, *selected]):
        selection, score = selected.get(arm), measured.get(arm)
        rows.append(
            ArmRow(
                arm=arm,
                method=selection.method if selection is not None else score.trained_on if score is not None else "",
                rows=selection.rows if selection is not None else None,
                target_tokens=selection.target_tokens if selection is not None else None,
                overlaps=selection.overlaps if selection is not None else {},
                stability=selection.stability if selection is not None else None,
                selection_seconds=score.selection.seconds if score is not None else None,
                training_seconds=score.training.seconds if score is not None else None,
                scores={
                    name: ArmScore(
                        one.mean.mean,
                        one.mean.error,
                        one.difference.mean if one.difference is not None else None,
                        one.difference.low if one.difference is not None else None,
                        one.difference.high if one.difference is not None else None,
                    )
                    for name, one in (score.scores.items() if score is not None else ())
                },
            )
        )
    return rows
