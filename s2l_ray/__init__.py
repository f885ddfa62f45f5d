"""s2l_ray picks the part of a fine-tuning data set that is worth training on.

    config = s2l_ray.load_config("job.yaml", ["select.budget=5000"])
    subset = s2l_ray.run(config)                # builds what is missing, and is safe to call again
    picks = subset.read_table()                 # example_id, source, cluster, shard, row, score

`plan` says what a run would build and why; `open_artifact` opens any finished artefact. What needs neither Ray nor
storage (losses, k-means, selectors) is in `s2l_ray.core`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s2l_ray.artifacts.manifest import Artifact, open_artifact
    from s2l_ray.config.load import load_config
    from s2l_ray.config.sections import Config
    from s2l_ray.pipeline.run import Plan, plan, run

__all__ = ["Artifact", "Config", "Plan", "load_config", "open_artifact", "plan", "run"]

_HOMES = {
    "Artifact": "artifacts.manifest",
    "open_artifact": "artifacts.manifest",
    "Config": "config",
    "load_config": "job_reading",
    "Plan": "pipeline",
    "plan": "pipeline",
    "run": "pipeline",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when first asked for: `s2l_ray.core` alone needs no Ray."""
    if name not in _HOMES:
        raise AttributeError(f"module s2l_ray has no attribute {name}")
    return getattr(import_module(f"s2l_ray.{_HOMES[name]}"), name)
