"""Algorithms on numpy arrays and torch tensors, usable without Ray, a config or storage.

The names below are public and imported on first use, so that `import s2l_ray.core` loads neither torch nor
transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s2l_ray.core.kmeans.fit import assign_clusters, fit_kmeans
    from s2l_ray.core.scoring.losses import per_example_loss
    from s2l_ray.core.selection.balancing import balanced_sample
    from s2l_ray.core.selection.learning_percentage import learning_percentage
    from s2l_ray.core.selection.registry import SELECTORS

__all__ = ["SELECTORS", "assign_clusters", "balanced_sample", "fit_kmeans", "learning_percentage", "per_example_loss"]

MODULES = {
    "SELECTORS": "selection.registry",
    "assign_clusters": "kmeans.fit",
    "balanced_sample": "selection.balancing",
    "fit_kmeans": "kmeans.fit",
    "learning_percentage": "selection.learning_percentage",
    "per_example_loss": "scoring.losses",
}


def __getattr__(name: str) -> object:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
