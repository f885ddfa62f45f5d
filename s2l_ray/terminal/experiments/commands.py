"""The commands `plan`, `run` and `compare` of an experiment file."""

from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.errors import ConfigError
from s2l_ray.terminal.commands import command_line
from s2l_ray.terminal.console import print_json, print_message, print_result, redirect_output_to_log, stdout_console

if TYPE_CHECKING:
    from rich.console import RenderableType

    from s2l_ray.pipeline.estimates.limits import Limits
    from s2l_ray.pipeline.experiment import ExperimentPlan
    from s2l_ray.pipeline.plan import Plan


def show(path: str, overrides: list[str] | None, to: str, as_json: bool) -> None:
    """Print the artifacts of an experiment. Raises `ConfigError` where an arm cannot run."""
    from s2l_ray.config.experiment import load_experiment
    from s2l_ray.pipeline.estimates.experiment import estimate_experiment
    from s2l_ray.pipeline.experiment import check_experiment, plan_experiment
    from s2l_ray.terminal.experiments.views import experiment_values, experiment_view

    _refuse_kind(to)
    planned = plan_experiment(load_experiment(path, overrides or ()))
    estimated = estimate_experiment(planned)
    print_result(as_json, experiment_values(planned, estimated), experiment_view(planned, estimated))
    check_experiment(planned)
    if not as_json and any(one.seconds is None for one in estimated.steps):
        print_message(f"to measure what is not known: {command_line('probe', path, overrides)}")


def run(
    path: str, overrides: list[str] | None, to: str, rebuild: str | None, allow_version_change: bool, limits: "Limits"
) -> "tuple[ExperimentPlan, bool]":
    """Build what is missing of every arm, show the progress, and print the results.

    Returns the plan as it ended, and whether anything was built.
    """
    from s2l_ray.config.experiment import load_experiment
    from s2l_ray.pipeline.estimates.experiment import estimate_experiment
    from s2l_ray.pipeline.experiment import check_experiment, plan_experiment, run_experiment
    from s2l_ray.terminal.follow import follow
    from s2l_ray.terminal.limits import refuse_above
    from s2l_ray.terminal.meter import RunMeter

    _refuse_kind(to)
    if rebuild is not None:
        raise ConfigError(f"--rebuild {rebuild}: run the job of one arm with --rebuild, then the experiment")
    experiment = load_experiment(path, overrides or ())
    planned = plan_experiment(experiment, allow_version_change)
    check_experiment(planned)  # before the log file is created
    estimated = estimate_experiment(planned)
    refuse_above(estimated, limits, command_line("probe", path, overrides))
    resume = command_line("run", path, overrides, allow_version_change=allow_version_change)
    meter = RunMeter([(one.kind, one.seconds) for one in estimated.steps], "artifact")
    with redirect_output_to_log(experiment.root, experiment.run) as log:

        def carry_out(arm: "Plan") -> "Plan":
            log.console.print(arm.config.run, style="bold", highlight=False)
            return follow(arm, log, resume, meter)

        result = run_experiment(planned, carry_out)
    for view in _result_views(result):
        stdout_console().print(view)
    return result, bool(planned.missing)


def _result_views(planned: "ExperimentPlan") -> "list[RenderableType]":
    """The selections and, of an experiment that trains targets, their scores."""
    from s2l_ray.pipeline.results import experiment_results
    from s2l_ray.pipeline.scores import experiment_scores
    from s2l_ray.terminal.experiments.scores import scores_view
    from s2l_ray.terminal.experiments.views import results_view

    views = [results_view(experiment_results(planned))]
    return views if planned.experiment.to == "subset" else [*views, scores_view(experiment_scores(planned))]


def _refuse_kind(to: str) -> None:
    if to != "subset":
        raise ConfigError(f"--to {to}: an experiment names the kind in its own key `to`; build one kind from its job")


def show_results(path: str, overrides: list[str] | None, to: str | None, as_json: bool) -> None:
    """Print the results of an experiment that ran, or write them to a file."""
    from s2l_ray import storage
    from s2l_ray.config.experiment import load_experiment
    from s2l_ray.pipeline.experiment import plan_experiment
    from s2l_ray.terminal.experiments.views import RESULT_SUFFIXES

    suffix = Path(to or "").suffix
    if to is not None and suffix not in RESULT_SUFFIXES:
        raise ConfigError(f"--to {to}: unknown suffix; write a name that ends in {' or '.join(RESULT_SUFFIXES)}")
    planned = plan_experiment(load_experiment(path, overrides or ()))
    if to is not None:
        storage.write_bytes(to, _results_text(planned, suffix).encode())
        print_message(f"wrote {to}")
    elif as_json:
        print_json(_result_values(planned))
    else:
        for view in _result_views(planned):
            stdout_console().print(view)


def _result_values(planned: "ExperimentPlan") -> dict[str, object]:
    from s2l_ray.pipeline.results import experiment_results
    from s2l_ray.pipeline.scores import experiment_scores
    from s2l_ray.pipeline.verdicts import verdicts

    values = vars(experiment_results(planned))
    if planned.experiment.to == "subset":
        return values
    scores = experiment_scores(planned)
    return {**values, "scores": scores, "verdicts": verdicts(scores)}


def _results_text(planned: "ExperimentPlan", suffix: str) -> str:
    """CSV of the selections or, where targets were trained, of their scores; Markdown of both."""
    from s2l_ray.pipeline.results import experiment_results
    from s2l_ray.pipeline.scores import experiment_scores
    from s2l_ray.terminal.experiments.scores import scores_csv, scores_markdown
    from s2l_ray.terminal.experiments.views import results_text

    if planned.experiment.to == "subset":
        return results_text(experiment_results(planned), suffix)
    scores = experiment_scores(planned)
    if suffix == ".csv":
        return scores_csv(scores)
    return f"{scores_markdown(scores)}\n{results_text(experiment_results(planned), suffix)}"
