"""Plans and subsets that the arguments JOB and SUBSET of a command name."""

from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.config.load import load_config
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.plan import Plan, plan
from s2l_ray.terminal.commands import command_line


def plan_job(
    job: str, overrides: list[str] | None, to: str, rebuild: str | None = None, allow_version_change: bool = False
) -> Plan:
    """The plan of a job file up to the kind `to`."""
    return plan(load_config(job, overrides or ()), to, rebuild=rebuild, allow_version_change=allow_version_change)


def open_subset(subset: str, overrides: list[str] | None = None) -> Artifact:
    """The subset of a job file, or that of a URI. Raises `ConfigError` where the job has not built it."""
    if not subset.endswith((".yaml", ".yml")):
        return open_artifact(subset)
    step = plan_job(subset, overrides, "subset")["subset"]
    if step.artifact is None:
        command = command_line("run", subset, overrides)
        raise ConfigError(f"{subset}: its subset is {step.state}; build it with: {command}")
    return step.artifact
