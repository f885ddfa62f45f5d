"""The command `submit`: a job on a Ray cluster."""

import typer

from s2l_ray.config.load import load_config
from s2l_ray.runtime.submit import submit as submit_job
from s2l_ray.terminal.commands import command_line, job_options
from s2l_ray.terminal.console import print_message
from s2l_ray.terminal.follow import follow_job, how_to_follow


def submit(
    job: str, address: str, overrides: list[str] | None, to: str, *, wait: bool, allow_version_change: bool
) -> None:
    """Submit a job, or find the same one that is running, and follow it if `wait`. Exits with its exit status."""
    options = job_options(overrides, to, allow_version_change)
    submitted = submit_job(job, load_config(job, overrides or ()), options, address)
    again = f"{command_line('submit', job, overrides, to, allow_version_change)} --address {address}"
    print_message(f"{'already running' if submitted.again else 'submitted'}: {submitted.submission_id}")
    if not wait:
        print_message(how_to_follow(submitted, again))
        return
    ending = follow_job(submitted, again)
    if ending.exit_status:
        if ending.message:
            print_message(ending.message)
        print_message(
            f"{submitted.submission_id} {ending.status.lower()}; completed units are kept. To resume:\n  {again}"
        )
        raise typer.Exit(ending.exit_status)
