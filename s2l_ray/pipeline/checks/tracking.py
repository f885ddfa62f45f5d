"""Checks of the trackers of a job before a run starts anything."""

from importlib.util import find_spec

from s2l_ray.config.sections import Config
from s2l_ray.errors import ConfigError


def check_trackers(config: Config) -> None:
    """Raise `ConfigError` for a tracker that is not installed; its package and its extra have its name."""
    for name in config.track:
        if find_spec(name) is None:
            raise ConfigError(f"track: needs the package {name}; pip install 's2l_ray[{name}]'")
