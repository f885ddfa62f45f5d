"""The refusal of a run above a limit, with the table that shows why."""

from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.estimates.job import JobEstimate
from s2l_ray.pipeline.estimates.limits import Limits, check_limits
from s2l_ray.terminal.console import stdout_console
from s2l_ray.terminal.estimate_view import estimate_view
from s2l_ray.terminal.layout import indented


def refuse_above(estimated: JobEstimate, limits: Limits, probe: str) -> None:
    """Print the estimates and raise `ConfigError` where a limit is exceeded, or what it limits is not known."""
    try:
        check_limits(estimated, limits, probe)
    except ConfigError:
        stdout_console().print(indented(estimate_view(estimated)))
        raise
