"""Limits of a run: the most that it may cost, and the most hours that it may take."""

from dataclasses import dataclass

from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.estimates.job import JobEstimate

PAGE = "docs/cost.md"


@dataclass(frozen=True)
class Limits:
    """max_cost: in the currency of `prices`. max_hours: of the whole run. None is no limit."""

    max_cost: float | None = None
    max_hours: float | None = None


def check_limits(estimated: JobEstimate, limits: Limits, probe: str) -> None:
    """Raise `ConfigError` for a run that exceeds a limit, or for which that is not known.

    probe: the command that measures the job.
    """
    hours = estimated.seconds / 3600 if estimated.seconds is not None else None
    parts = (
        ("--max-cost", limits.max_cost, estimated.money, estimated.known_money),
        ("--max-hours", limits.max_hours, hours, estimated.known_seconds / 3600),
    )
    for option, limit, value, known in parts:
        if limit is None or not estimated.steps:
            continue
        if known > limit:
            least = "" if value is not None else "at least "
            raise ConfigError(
                f"{option} {limit:g}: the run takes {least}{known:,.3g}; raise the limit, or change the job", page=PAGE
            )
        if value is None:
            stages, prices = _unknown(estimated, option), "set prices in the job, and " if "cost" in option else ""
            raise ConfigError(
                f"{option} {limit:g}: not known for {', '.join(stages)}; {prices}measure it with: {probe}", page=PAGE
            )


def _unknown(estimated: JobEstimate, option: str) -> list[str]:
    """Kinds without that figure."""
    figure = "money" if option == "--max-cost" else "seconds"
    return list(dict.fromkeys(one.kind for one in estimated.steps if getattr(one, figure) is None))
