"""The Ray runtime environment of a submitted job: the uploaded folder, and this package if it is elsewhere.

Raises `ConfigError` before the upload for files that would be missing on the cluster: a job file or rows outside the
folder or ignored, artifacts inside the folder, a folder above the size limit.
"""

import os
from collections import Counter
from pathlib import Path
from typing import Any

from ray._private.runtime_env import packaging  # Ray's own walk, so that exactly the uploaded files are counted

import s2l_ray
from s2l_ray import storage
from s2l_ray.config.sections import Config
from s2l_ray.errors import ConfigError

# Each node downloads the folder before it starts a worker; larger data belongs in an object store.
LIMIT_BYTES = 50 << 20
# Not uploaded, in addition to the paths in .gitignore and .rayignore.
EXCLUDES = (".git", ".venv", "venv", "__pycache__", ".*_cache", "*.egg-info", "/runs", "/demo")


def runtime_env(folder: Path, job: Path, config: Config) -> dict[str, Any]:
    """The `working_dir`, `py_modules` and `excludes` of the job's runtime environment; `job` is relative to `folder`.

    Raises `ConfigError` for files that would not be uploaded.
    """
    _check_root(config)
    files = uploaded_files(folder)
    _check_size(folder, files)
    for name in [str(job), *_local_names(folder, config)]:
        _check_uploaded(folder, name, files)
    environment: dict[str, Any] = {"working_dir": str(folder), "excludes": list(EXCLUDES)}
    package = Path(s2l_ray.__file__).parent
    if package.resolve() != (folder / package.name).resolve():
        environment["py_modules"] = [str(package)]
    return environment


def uploaded_files(folder: Path) -> dict[str, int]:
    """Sizes of the files of a folder that Ray would upload, by relative path."""
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
            f"root: {config.root} is relative, and would be lost with the cluster's copy of this folder; set "
            "--set root=s3://BUCKET/PATH, or the absolute path of a file system that every node mounts",
            page="docs/cluster.md#existing-ray-cluster",
        )


def _check_size(folder: Path, files: dict[str, int]) -> None:
    if sum(files.values()) <= LIMIT_BYTES:
        return
    sizes: Counter[str] = Counter()
    for path, size in files.items():
        sizes[path.partition("/")[0]] += size
    largest = ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in sizes.most_common(3))
    raise ConfigError(
        f"{folder}: {sum(files.values()) / 2**20:,.0f} MiB would be uploaded to every node; the limit is "
        f"{LIMIT_BYTES >> 20} MiB. Largest: {largest}. List files that the job does not need in .rayignore, and move "
        "rows to an object store",
        page="docs/cluster.md#submit",
    )


def _local_names(folder: Path, config: Config) -> list[str]:
    """Relative paths in the job: rows, losses, checkpoints, and a tokenizer or model that is a local folder."""
    losses, checkpoints = config.score.losses_from, config.proxy.checkpoints_from
    task = config.proxy.train_on
    paths = [source.path for source in [*config.data.sources, *([task] if task is not None else [])]]
    paths += [one.path for one in checkpoints] if isinstance(checkpoints, list) else []
    paths += [losses.path] if losses is not None else []
    rows = [storage.join(config.data.root, path) for path in paths if path]
    references = (config.data.tokenizer, config.proxy.model, config.embed.model)
    models = [name for name in references if isinstance(name, str)]
    names = rows + [name for name in models if (folder / name).is_dir()]
    return [name for name in names if storage.is_local(name) and not storage.local_path(name).is_absolute()]


def _check_uploaded(folder: Path, name: str, files: dict[str, int]) -> None:
    path = os.path.relpath(folder / storage.local_path(name), folder)
    if not any(file == path or file.startswith(f"{path}/") for file in files):
        raise ConfigError(
            f"{name}: would not be uploaded with {folder}: it is missing, outside, or listed in .gitignore or "
            ".rayignore; move it into the folder, or rows to an object store: --set data.root=s3://BUCKET/PATH",
            page="docs/cluster.md#submit",
        )
