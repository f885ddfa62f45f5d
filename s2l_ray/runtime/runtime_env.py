"""What travels with a submitted job: the folder one stands in, and this package where it lies elsewhere.

In: that folder, the job file, the job. Out: the part of a Ray runtime environment that sends them, or a `ConfigError`
where something would not arrive: a job file or rows that lie outside the folder or are ignored, artefacts beside the
job, or a folder too big to send. `.gitignore`, `.rayignore` and `EXCLUDES` say what stays.
"""

import os
from collections import Counter
from pathlib import Path
from typing import Any

from ray._private.runtime_env import packaging  # Ray's own walk: what is counted is what is sent

import s2l_ray
from s2l_ray import storage
from s2l_ray.config.sections import Config
from s2l_ray.errors import ConfigError

LIMIT_BYTES = 50 << 20
"""More than this is data, and data belongs in an object store: each node fetches a working folder before it starts."""
EXCLUDES = (".git", ".venv", "venv", "__pycache__", ".*_cache", "*.egg-info", "/runs", "/demo")
LARGEST = 3


def working_folder(folder: Path, job: Path, config: Config) -> dict[str, Any]:
    """The `working_dir`, `py_modules` and `excludes` of the job's runtime environment.

    `job` is relative to the folder. Raises `ConfigError` for what would not arrive on the cluster.
    """
    _check_root(config)
    files = files_that_travel(folder)
    _check_size(folder, files)
    for name in [str(job), *_local_names(folder, config)]:
        _check_travels(folder, name, files)
    environment: dict[str, Any] = {"working_dir": str(folder), "excludes": list(EXCLUDES)}
    package = Path(s2l_ray.__file__).parent
    if package.resolve() != (folder / package.name).resolve():
        environment["py_modules"] = [str(package)]
    return environment


def files_that_travel(folder: Path) -> dict[str, int]:
    """The files of a folder that a job takes along, by their path in it, with their sizes."""
    files: dict[str, int] = {}

    def note(path: Path) -> None:
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = path.stat().st_size

    packaging._dir_travel(
        folder,
        [packaging._get_excludes(folder, list(EXCLUDES))],
        note,
        include_gitignore=os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1",
    )
    return files


def _check_root(config: Config) -> None:
    if storage.is_local(config.root) and not storage.local_path(config.root).is_absolute():
        raise ConfigError(
            f"root: {config.root} would lie in the cluster's copy of this folder, which is gone when the cluster is; "
            "write --set root=s3://BUCKET/PATH, or the absolute path of a file system that every node mounts"
        )


def _check_size(folder: Path, files: dict[str, int]) -> None:
    if sum(files.values()) <= LIMIT_BYTES:
        return
    sizes: Counter[str] = Counter()
    for path, size in files.items():
        sizes[path.partition("/")[0]] += size
    largest = ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in sizes.most_common(LARGEST))
    raise ConfigError(
        f"{folder}: {sum(files.values()) / 2**20:,.0f} MiB would travel to every node, most of it in {largest}; "
        f"at most {LIMIT_BYTES >> 20} MiB may. Name in .rayignore what the job does not need, and keep rows elsewhere"
    )


def _local_names(folder: Path, config: Config) -> list[str]:
    """Relative paths that the job refers to: rows, and a tokenizer or model that is a folder and no hub id."""
    rows = [storage.join(config.data.root, source.path) for source in config.data.sources if source.path]
    models = [name for name in (config.data.tokenizer, config.proxy.model) if isinstance(name, str)]
    names = rows + [name for name in models if (folder / name).is_dir()]
    return [name for name in names if storage.is_local(name) and not storage.local_path(name).is_absolute()]


def _check_travels(folder: Path, name: str, files: dict[str, int]) -> None:
    path = os.path.relpath(folder / storage.local_path(name), folder)
    if not any(file == path or file.startswith(f"{path}/") for file in files):
        raise ConfigError(
            f"{name}: does not travel with {folder}: it is missing, outside, or named in .gitignore or .rayignore; "
            "put it there, or rows into an object store: --set data.root=s3://BUCKET/PATH"
        )
