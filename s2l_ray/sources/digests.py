"""References to files and data sets in the identity of an artifact: digests, versions of objects, revisions.

Digests of local files are cached in the user's cache folder by path and by what changes with the content of a file:
size, modification time, inode, and the time of the last change, which no program can set.
"""

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2l_ray import storage
from s2l_ray.artifacts.fingerprint import canonical_json
from s2l_ray.sources.files.listing import find_source_files
from s2l_ray.sources.hub import require_commit
from s2l_ray.sources.spec import SourceSpec

# A file modified more recently than this may change again without a new modification time; it is not cached.
SETTLED_NS = 2_000_000_000

Reference = list[str | int | None]


def source_reference(spec: SourceSpec, root: str) -> list[Reference]:
    """References to the contents of the files of a source, with their partitions; [hub id, config, commit, split].

    Raises `UnresolvedError` for a revision that is no commit.
    """
    if spec.hub is not None:
        require_commit(f"hub: {spec.hub}", spec.revision)
        return [[spec.hub, spec.config, spec.revision, spec.split]]
    files = find_source_files(spec, root).files
    contents = content_references([(file.uri, file.entry) for file in files])
    return [[*one, *_partition_names(file.partitions)] for file, one in zip(files, contents, strict=True)]


def content_references(files: list[tuple[str, storage.Entry]]) -> list[Reference]:
    """[sha256] of each local file, [size, version] of each object, in order and without their names."""
    if not all(storage.is_local(uri) for uri, _ in files):
        return [[entry.bytes, entry.version] for _, entry in files]
    cache_file = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "s2l_ray" / "sha256.json"
    cache = _read_cache(cache_file)
    references: list[Reference] = []
    computed = {}
    for uri, _ in files:
        path = storage.local_path(uri).absolute()
        state = _state(path)
        cached = cache.get(str(path))
        if not cached or cached[:-1] != state:
            cached = [*state, storage.sha256_file(uri)]
            if time.time_ns() - max(state[:2]) > SETTLED_NS and _state(path) == state:
                computed[str(path)] = cached
        references.append([cached[-1]])
    if computed:
        text = json.dumps(_read_cache(cache_file) | computed, indent=0, sort_keys=True)
        with contextlib.suppress(OSError):  # without a cache, the digests are computed again
            storage.write_bytes(str(cache_file), text.encode())
    return references


def named_references(files: list[tuple[str, storage.Entry]]) -> list[Reference]:
    """[name, sha256] of each local file, [name, size, version] of each object, in order."""
    return [[entry.path, *one] for (_, entry), one in zip(files, content_references(files), strict=True)]


def folder_reference(folder: Path) -> list[Reference]:
    """[path in the folder, sha256] of every file below a local folder, sorted by path."""
    return named_references([(str(folder / entry.path), entry) for entry in storage.list_files(str(folder))])


def _partition_names(partitions: Mapping[str, str | None]) -> list[str]:
    """The columns in the names of a file's folders, as JSON; none for a file without."""
    return [canonical_json(partitions)] if partitions else []


def _state(path: Path) -> list[int]:
    """Times of the last modification and change, size and inode."""
    status = path.stat()
    return [status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino]


def _read_cache(file: Path) -> dict[str, Any]:
    try:
        cache = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return cache if isinstance(cache, dict) else {}
