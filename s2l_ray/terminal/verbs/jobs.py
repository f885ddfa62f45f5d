"""The commands `plan` and `run` of a job file; those of an experiment file are in `terminal/experiments`."""

import time

from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.config.row_summary import check_chat_template, summarise_sources
from s2l_ray.pipeline.estimates.actual import actual_steps
from s2l_ray.pipeline.estimates.job import estimate_job
from s2l_ray.pipeline.estimates.limits import Limits
from s2l_ray.pipeline.plan import Plan
from s2l_ray.pipeline.preflight import check_feasible, estimate
from s2l_ray.pipeline.run import check_plan
from s2l_ray.terminal.commands import command_line, invocation
from s2l_ray.terminal.console import print_message, print_result, redirect_output_to_log, stdout_console
from s2l_ray.terminal.follow import follow
from s2l_ray.terminal.limits import refuse_above
from s2l_ray.terminal.meter import RunMeter
from s2l_ray.terminal.plan_view import plan_values, plan_view
from s2l_ray.terminal.summary import run_view
from s2l_ray.terminal.verbs.targets import plan_job


def show(job: str, overrides: list[str] | None, to: str, as_json: bool) -> None:
    """Print the plan with its estimates, and the next command. Raises `ConfigError` where a run would fail."""
    planned = plan_job(job, overrides, to)
    figures, estimated = estimate(planned), estimate_job(planned)
    summaries = summarise_sources(planned.config) if "dataset" in planned and planned["dataset"].to_build else []
    parts = planned, figures, summaries, estimated
    print_result(as_json, plan_values(*parts), plan_view(*parts))
    check_chat_template(planned.config, summaries)
    check_feasible(planned, figures)
    if not as_json:
        if any(one.seconds is None for one in estimated.steps):
            print_message(f"to measure what is not known: {command_line('probe', job, overrides, to)}")
        next_command = f"next: {command_line('run', job, overrides, to)}"
        print_message(next_command if planned.missing else "all artifacts are complete; a run would build nothing")


def run(
    job: str, overrides: list[str] | None, to: str, rebuild: str | None, allow_version_change: bool, limits: Limits
) -> tuple[Plan, bool]:
    """Build what is missing, show the progress, and print the result.

    Returns the plan as it ended, and whether anything was built. Raises `ConfigError` for a run above a limit.
    """
    started = time.monotonic()
    planned = plan_job(job, overrides, to, rebuild, allow_version_change)
    check_plan(planned)  # before the log file is created
    estimated = estimate_job(planned)
    refuse_above(estimated, limits, command_line("probe", job, overrides, to))
    built = [step.kind for step in planned.missing]
    with redirect_output_to_log(planned.config.root, planned.config.run) as log:
        resume = command_line("run", job, overrides, to, allow_version_change)
        result = follow(planned, log, resume, RunMeter([(one.kind, one.seconds) for one in estimated.steps]))
    artifacts = {step.kind: open_artifact(step.uri) for step in result.steps}
    actual = actual_steps(estimated.steps, artifacts, planned.config.prices)
    stdout_console().print(run_view(artifacts, to, actual, time.monotonic() - started, invocation()))
    return result, bool(built)
