"""The commands `plan` and `run` of a job file; those of an experiment file are in `terminal/experiments`."""

import time

from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.config.row_summary import check_chat_template, summarise_sources
from s2l_ray.pipeline.plan import Plan
from s2l_ray.pipeline.preflight import check_feasible, estimate
from s2l_ray.pipeline.run import check_plan
from s2l_ray.terminal.commands import command_line, invocation
from s2l_ray.terminal.console import print_message, print_result, redirect_output_to_log, stdout_console
from s2l_ray.terminal.follow import follow
from s2l_ray.terminal.meter import RunMeter
from s2l_ray.terminal.plan_view import plan_values, plan_view
from s2l_ray.terminal.summary import run_view
from s2l_ray.terminal.verbs.targets import plan_job


def show(job: str, overrides: list[str] | None, to: str, as_json: bool) -> None:
    """Print the plan with its estimates, and the next command. Raises `ConfigError` where a run would fail."""
    planned = plan_job(job, overrides, to)
    figures = estimate(planned)
    summaries = summarise_sources(planned.config) if "dataset" in planned and planned["dataset"].to_build else []
    print_result(as_json, plan_values(planned, figures, summaries), plan_view(planned, figures, summaries))
    check_chat_template(planned.config, summaries)
    check_feasible(planned, figures)
    if not as_json:
        next_command = f"next: {command_line('run', job, overrides, to)}"
        print_message(next_command if planned.missing else "all artifacts are complete; a run would build nothing")


def run(
    job: str, overrides: list[str] | None, to: str, rebuild: str | None, allow_version_change: bool
) -> tuple[Plan, bool]:
    """Build what is missing, show the progress, and print the result.

    Returns the plan as it ended, and whether anything was built.
    """
    started = time.monotonic()
    planned = plan_job(job, overrides, to, rebuild, allow_version_change)
    check_plan(planned)  # before the log file is created
    built = [step.kind for step in planned.missing]
    with redirect_output_to_log(planned.config.root, planned.config.run) as log:
        resume = command_line("run", job, overrides, to, allow_version_change)
        result = follow(planned, log, resume, RunMeter([(kind, None) for kind in built]))
    artifacts = {step.kind: open_artifact(step.uri) for step in result.steps}
    stdout_console().print(run_view(artifacts, to, built, time.monotonic() - started, invocation()))
    return result, bool(built)
