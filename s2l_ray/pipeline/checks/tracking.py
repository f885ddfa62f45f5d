"""Checks of the trackers of a job before a run starts anything."""

from importlib.util import find_spec

from s2l_ray.config.sections import Config
from s2l_ray.errors import ConfigError

# by tracker, which is also the name of the extra that installs it
PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}


def check_trackers(config: Config) -> None:
    """Raise `ConfigError` for a tracker whose package is not installed."""
    for name in config.track:
        if not is_installed(name):
            raise ConfigError(f"track: {name} needs the package {PACKAGES[name]}; pip install 's2l_ray[{name}]'")


def is_installed(tracker: str) -> bool:
    return find_spec(PACKAGES[tracker]) is not None
