"""Resolution of jobs, experiments and URIs to complete artifacts, and their comparison."""

from collections.abc import Sequence

from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.catalog.compare import COMPARED, Comparison
from s2l_ray.catalog.compare import compare as compare_artifacts
from s2l_ray.config.experiment import is_experiment, load_experiment
from s2l_ray.config.load import load_config
from s2l_ray.config.sections import Config
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.experiment import plan_experiment
from s2l_ray.pipeline.plan import plan

Target = str | Config | Artifact


def compare(*targets: Target, overrides: Sequence[str] = ()) -> Comparison:
    """Compare subsets, trajectories or clusters with one another.

    A target is the URI of an artifact, a job file, an experiment file, a `Config` or an `Artifact`. A job means its
    subset or, where that is not complete, its last complete artifact; an experiment the subsets of all its jobs.
    overrides: keys of the jobs, as in `load_config`. Raises `ConfigError` where a target names nothing complete.
    """
    found: dict[str, Artifact] = {}
    for target in targets:
        for name, artifact in resolve(target, overrides).items():
            found[name if name not in found else f"{name} ({target})"] = artifact
    return compare_artifacts(found)


def resolve(target: Target, overrides: Sequence[str] = ()) -> dict[str, Artifact]:
    """The artifacts that a target means, by name."""
    if isinstance(target, Artifact):
        return {f"{target.manifest.kind} {target.manifest.fingerprint}": target}
    if isinstance(target, Config):
        return {target.run: _last_artifact(target)}
    if not target.endswith((".yaml", ".yml")):
        return resolve(open_artifact(target))
    if is_experiment(target):
        return plan_experiment(load_experiment(target, overrides)).subsets()
    return resolve(load_config(target, overrides))


def _last_artifact(config: Config) -> Artifact:
    """The subset of a job or, where that is not complete, the last complete artifact of a kind that is compared."""
    planned = plan(config)
    for kind in ("subset", "clusters", "trajectories"):
        if (artifact := planned.artifact(kind)) is not None:
            return artifact
    raise ConfigError(f"{config.run}: none of {', '.join(COMPARED)} is complete; build one with `s2l run`")
