"""What travels with a submitted job: the folder one stands in, and this package where it lies elsewhere.

In: that folder, the job file and what the job refers to. Out: the part of a Ray runtime environment that sends them, or
a `ConfigError` where something would not arrive: a job file outside the folder, rows outside it, artefacts on this
machine's disk, or a folder too big to send. What a cluster does not need is left out by `.gitignore`, `.rayignore` and
`EXCLUDES`.
"""

import os
from collections import Counter
from pathlib import Path
from typing import Any

from ray._private.runtime_env import packaging  # Ray's own walk: what is counted is what is sent

import s2l_ray
from s2l_ray.artifacts import storage
from s2l_ray.artifacts.errors import ConfigError
from s2l_ray.config import Config

LIMIT_BYTES = 50 << 20
"""More than this is data, and data belongs in an object store: each node fetches a working folder before it starts."""
EXCLUDES = (".git", ".venv", "venv", "__pycache__", ".*_cache", "*.egg-info", "/runs", "/demo")
LARGEST = 3


def working_folder(folder: Path, job: Path, config: Config) -> dict[str, Any]:
    """The `working_dir`, `py_modules` and `excludes` of the job's runtime environment.

    Raises `ConfigError` for what would not arrive on the cluster.
    """
    if not (folder / job).resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{job}: lies outside {folder}, which is what travels; go to its folder and submit there")
    _check_root(config)
    _check_rows(folder, config)
    _check_size(folder)
    environment: dict[str, Any] = {"working_dir": str(folder), "excludes": list(EXCLUDES)}
    package = Path(s2l_ray.__file__).parent
    if package.resolve() != (folder / package.name).resolve():
        environment["py_modules"] = [str(package)]
    return environment


def _check_root(config: Config) -> None:
    if storage.is_local(config.root) and not storage.local_path(config.root).is_absolute():
        raise ConfigError(
            f"root: {config.root} is a folder beside the job, which is gone when the cluster is; "
            "write --set root=s3://BUCKET/PATH, or the absolute path of a file system that every node mounts"
        )


def _check_rows(folder: Path, config: Config) -> None:
    for source in config.data.sources:
        place = storage.join(config.data.root, source.path) if source.path else ""
        if not place or not storage.is_local(place) or storage.local_path(place).is_absolute():
            continue
        if not (folder / storage.local_path(place)).resolve().is_relative_to(folder.resolve()):
            raise ConfigError(
                f"data: {place} lies outside {folder}, which is what travels; "
                "write --set data.root=s3://BUCKET/PATH, or an absolute path that every node mounts"
            )


def _check_size(folder: Path) -> None:
    sizes = _sizes(folder)
    if sum(sizes.values()) <= LIMIT_BYTES:
        return
    largest = ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in sizes.most_common(LARGEST))
    raise ConfigError(
        f"{folder}: {sum(sizes.values()) / 2**20:,.0f} MiB would travel to every node, most of it in {largest}; "
        f"at most {LIMIT_BYTES >> 20} MiB may. Name in .rayignore what the job does not need, and keep rows elsewhere"
    )


def _sizes(folder: Path) -> Counter[str]:
    """Bytes that would travel, by what lies directly in the folder."""
    sizes: Counter[str] = Counter()

    def count(path: Path) -> None:
        if path.is_file():
            sizes[path.relative_to(folder).parts[0]] += path.stat().st_size

    packaging._dir_travel(
        folder,
        [packaging._get_excludes(folder, list(EXCLUDES))],
        count,
        include_gitignore=os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1",
    )
    return sizes
