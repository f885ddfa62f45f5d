"""s2l_ray selects the part of a fine-tuning data set that is worth training on.

    config = s2l_ray.load_config("job.yaml", ["select.budget=5000"])
    subset = s2l_ray.run(config)                # builds what is missing; calling it again resumes
    rows = subset.read_table()                  # example_id, source, cluster, shard, row, score

`plan` shows what a run would build and why; `open_artifact` opens any complete artifact; `compare` compares artifacts,
jobs or experiments; `report` collects what is known of a job and writes it as one HTML page. Losses, k-means and
selectors, which need neither Ray nor storage, are in `s2l_ray.core`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s2l_ray.artifacts.manifest import Artifact, open_artifact
    from s2l_ray.config.load import load_config
    from s2l_ray.config.sections import Config
    from s2l_ray.pipeline.compare import compare
    from s2l_ray.pipeline.plan import Plan, plan
    from s2l_ray.pipeline.run import run
    from s2l_ray.reporting.report import report

__all__ = ["Artifact", "Config", "Plan", "compare", "load_config", "open_artifact", "plan", "report", "run"]

_MODULES = {
    "Artifact": "artifacts.manifest",
    "open_artifact": "artifacts.manifest",
    "Config": "config.sections",
    "compare": "pipeline.compare",
    "load_config": "config.load",
    "Plan": "pipeline.plan",
    "plan": "pipeline.plan",
    "report": "reporting.report",
    "run": "pipeline.run",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import s2l_ray` stays fast."""
    if name not in _MODULES:
        raise AttributeError(f"module s2l_ray has no attribute {name}")
    return getattr(import_module(f"s2l_ray.{_MODULES[name]}"), name)
