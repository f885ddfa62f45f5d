"""The commands `submit`, `status` and `stop`: a job on a Ray cluster."""

import typer

from s2l_ray.config.load import load_config
from s2l_ray.runtime.submit import JobState, job_states, stop_jobs
from s2l_ray.runtime.submit import submit as submit_job
from s2l_ray.terminal import humanize
from s2l_ray.terminal.commands import command_line, job_options
from s2l_ray.terminal.console import print_json, print_message
from s2l_ray.terminal.follow import follow_job, how_to_follow


def submit(
    job: str, address: str, overrides: list[str] | None, to: str, *, wait: bool, allow_version_change: bool
) -> None:
    """Submit a job, or find the same one that is running, and follow it if `wait`. Exits with its exit status."""
    options = job_options(overrides, to, allow_version_change)
    submitted = submit_job(job, load_config(job, overrides or ()), options, address)
    again = f"{command_line('submit', job, overrides, to, allow_version_change)} --address {address}"
    stop_it = f"{command_line('stop', job, overrides)} --address {address}"
    print_message(f"{'already running' if submitted.again else 'submitted'}: {submitted.submission_id}")
    if not wait:
        print_message(how_to_follow(again, stop_it))
        return
    ending = follow_job(submitted, again, stop_it)
    if ending.exit_status:
        if ending.message:
            print_message(ending.message)
        print_message(
            f"{submitted.submission_id} {ending.status.lower()}; completed units are kept. To resume:\n  {again}"
        )
        raise typer.Exit(ending.exit_status)


def status(job: str, address: str, overrides: list[str] | None, json_: bool) -> None:
    """Print the submissions of a job, the newest first."""
    states = job_states(load_config(job, overrides or ()), address)
    if json_:
        print_json({"jobs": states})
    elif not states:
        print_message(f"{address}: no submission of this job; `s2l submit` starts one")
    for one in states if not json_ else []:
        print(_status_line(one))


def _status_line(one: JobState) -> str:
    since = f", started {humanize.age(one.started)}" if one.started else ""
    took = f", took {humanize.duration(one.ended - one.started)}" if one.started and one.ended else ""
    return f"{one.submission_id}  {one.status.lower()}{since}{took}"


def stop(job: str, address: str, overrides: list[str] | None) -> None:
    """Stop the running submissions of a job and wait until they have ended."""
    stopped = stop_jobs(load_config(job, overrides or ()), address)
    for name in stopped:
        print_message(f"{name} stopped; completed units are kept")
    if not stopped:
        print_message(f"{address}: no submission of this job is running")
