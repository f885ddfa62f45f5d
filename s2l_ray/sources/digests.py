"""References to sources in the identity of a dataset: digests of files, versions of objects, revisions of data sets.

Digests of local files are cached in the user's cache folder by path, size and modification time.
"""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from s2l_ray import storage
from s2l_ray.sources.ranges import SourceSpec, find_source_files

# A file modified more recently than this may change again without a new modification time; it is not cached.
SETTLED_NS = 2_000_000_000

Reference = list[str | int | None]


def source_reference(spec: SourceSpec, root: str) -> list[Reference]:
    """[path in the source, sha256] of each local file in order; [path, size, version] of each object;
    [hub id, revision, split] as configured.
    """
    if spec.hub is not None:
        return [[spec.hub, spec.revision, spec.split]]
    return files_reference([(uri, entry) for uri, _, entry in find_source_files(spec, root).files])


def files_reference(files: list[tuple[str, storage.Entry]]) -> list[Reference]:
    """[path, sha256] of each local file, [path, size, version] of each object, in order."""
    if not all(storage.is_local(uri) for uri, _ in files):
        return [[entry.path, entry.bytes, entry.version] for _, entry in files]
    return _file_references(files)


def file_reference(folder: Path) -> list[Reference]:
    """[path in the folder, sha256] of every file below a local folder, sorted by path."""
    return _file_references([(str(folder / entry.path), entry) for entry in storage.list_files(str(folder))])


def _file_references(files: list[tuple[str, storage.Entry]]) -> list[Reference]:
    """[path, sha256] of each file; the digest is from the cache where size and modification time are unchanged."""
    cache_file = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "s2l_ray" / "sha256.json"
    cache = _read_cache(cache_file)
    references: list[Reference] = []
    computed = {}
    for uri, entry in files:
        path = str(storage.local_path(uri).absolute())
        cached = cache.get(path)
        if not cached or cached[:2] != [entry.bytes, entry.mtime_ns]:
            cached = [entry.bytes, entry.mtime_ns, storage.sha256_file(uri)]
            if time.time_ns() - entry.mtime_ns > SETTLED_NS:
                computed[path] = cached
        references.append([entry.path, cached[2]])
    if computed:
        text = json.dumps(_read_cache(cache_file) | computed, indent=0, sort_keys=True)
        with contextlib.suppress(OSError):  # without a cache, the digests are computed again
            storage.write_bytes(str(cache_file), text.encode())
    return references


def _read_cache(file: Path) -> dict[str, Any]:
    try:
        cache = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return cache if isinstance(cache, dict) else {}
