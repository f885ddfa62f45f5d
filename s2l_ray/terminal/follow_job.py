"""A submitted job, followed on the terminal to its end.

In: the job of a cluster, and the command that submitted it. Out: its log on standard output, and how it ended; or
`Interrupted`, which says that the job goes on and how it is followed again or stopped.
"""

import functools
from typing import TYPE_CHECKING

from s2l_ray.terminal.failures import Interrupted

if TYPE_CHECKING:
    from s2l_ray.runtime.submit import Ending, Submitted


def follow_job(submitted: "Submitted", again: str) -> "Ending":
    """Print the log as it comes. `again` is the command that finds the job once more."""
    from s2l_ray.runtime.submit import follow

    try:
        return follow(submitted, functools.partial(print, flush=True))
    except KeyboardInterrupt:
        raise Interrupted(
            f"{submitted.submission_id} goes on without this terminal.\n{ways(submitted, again)}"
        ) from None


def ways(submitted: "Submitted", again: str) -> str:
    """How a job that runs is followed and stopped."""
    return f"  follow it:  {again}\n  stop it:    {submitted.command('stop')}"
