"""The output of `plan` and `run` for an experiment: its artifacts, and its results as a table, CSV or Markdown."""

import csv
import dataclasses
import io

from rich.console import RenderableType
from rich.text import Text

from s2l_ray.pipeline.estimates.job import JobEstimate
from s2l_ray.pipeline.experiment import ExperimentPlan
from s2l_ray.pipeline.results import ExperimentResults, result_columns, result_rows
from s2l_ray.terminal import humanize
from s2l_ray.terminal.estimate_view import estimate_view
from s2l_ray.terminal.layout import indented, state, table

USERS_SHOWN = 3
JSON_VERSION = 1
RESULT_SUFFIXES = (".csv", ".md")


def experiment_view(planned: ExperimentPlan, estimated: JobEstimate) -> RenderableType:
    """Every artifact with its state and the arms that share it, then the estimates."""
    experiment = planned.experiment
    shown = table("kind", "state", "fingerprint", "for")
    for shared in planned.steps:
        users = Text(_users(shared.users, len(planned.arms)))
        shown.add_row(shared.step.kind, state(shared.step.state), Text(shared.step.fingerprint, "dim"), users)
    jobs = humanize.plural(len(planned.arms), "job")
    arms = f"{humanize.plural(len(experiment.arms), 'arm')}, {jobs}: seeds set {', '.join(experiment.varied)}"
    needed = sum(len(arm.plan.steps) for arm in planned.arms)
    total = f"{len(planned.steps)} artifacts for {needed} steps of {jobs}; {len(planned.missing)} to build"
    head = Text.assemble((experiment.run, "bold"), f"  in {experiment.root}")
    return indented(head, Text(arms), shown, Text(total, "dim"), estimate_view(estimated))


def experiment_values(planned: ExperimentPlan, estimated: JobEstimate) -> dict[str, object]:
    """The plan as plain values."""
    artifacts = [
        {
            "kind": one.step.kind,
            "fingerprint": one.step.fingerprint,
            "uri": one.step.uri,
            "state": one.step.state,
            "build": one.step.to_build,
            "jobs": list(one.users),
        }
        for one in planned.steps
    ]
    experiment = planned.experiment
    jobs = [{"run": arm.job.config.run, "arm": arm.job.arm, "seed": arm.job.seed} for arm in planned.arms]
    values = {"version": JSON_VERSION, "run": experiment.run, "root": experiment.root, "jobs": jobs}
    return {**values, "artifacts": artifacts, "estimate": dataclasses.asdict(estimated)}


def _users(users: tuple[str, ...], jobs: int) -> str:
    if len(users) == jobs and jobs > 1:
        return "all"
    more = len(users) - USERS_SHOWN
    return ", ".join(users[:USERS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def results_view(results: ExperimentResults) -> RenderableType:
    columns = result_columns(results)
    shown = table(*columns, right=tuple(columns[2:]))
    for row in result_rows(results):
        shown.add_row(*_cells(columns, row))
    return indented(Text(results.run, "bold"), shown, Text(_seeds(results), "dim"))


def results_text(results: ExperimentResults, suffix: str) -> str:
    """The table of results as CSV, with all digits, or as Markdown."""
    columns, rows = result_columns(results), result_rows(results)
    if suffix == ".csv":
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])
        return file.getvalue()
    lines = [columns, ["---", "---", *("---:" for _ in columns[2:])], *(_cells(columns, row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{_seeds(results)}\n"


def _cells(columns: list[str], row: list[str | float | None]) -> list[str]:
    return [_cell(name, value) for name, value in zip(columns, row, strict=True)]


def _cell(column: str, value: str | float | None) -> str:
    if isinstance(value, str):
        return value
    if column.startswith("overlap") or column == "between seeds":
        return humanize.percent(value)
    if column == "adjusted Rand index":
        return humanize.ratio(value)
    if column in ("seconds", "mean length"):
        return "-" if value is None else f"{value:.1f}"
    return humanize.count(value)


def _seeds(results: ExperimentResults) -> str:
    """The meaning of the means, on one line."""
    seeds = ", ".join(map(str, results.seeds))
    return f"Means over the seeds {seeds} of {', '.join(results.varied)}; overlaps are of subsets with equal seeds."
