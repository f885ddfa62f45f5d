"""What identifies a source: the contents of its files, or the revision of its data set.

In: a source. Out: a JSON-able reference that is part of the dataset's identity. Hashes of local files are kept in a
small cache of the user's, by path, size and time of change, so that a second look costs a listing.
"""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from s2l_ray import storage
from s2l_ray.sources.ranges import SourceSpec, find_files

SETTLED_NS = 2_000_000_000
"""A file changed this recently may change again within one tick of its clock; its hash is not kept."""


def source_reference(spec: SourceSpec, root: str) -> list[list[Any]]:
    """[path in the source, sha256] of each local file in listed order; [path, size, version] of each object;
    [hub id, revision, split] as written.
    """
    if spec.hub is not None:
        return [[spec.hub, spec.revision, spec.split]]
    files = [(uri, entry) for uri, _, entry in find_files(spec, root).files]
    if not all(storage.is_local(uri) for uri, _ in files):
        return [[entry.path, entry.bytes, entry.version] for _, entry in files]
    return [[entry.path, sha] for (_, entry), sha in zip(files, _hashes(files), strict=True)]


def _hashes(files: list[tuple[str, storage.Entry]]) -> list[str]:
    """sha256 of each file, from the cache where its size and time of change are those of the cache."""
    cache = _read_cache()
    hashes, fresh = [], {}
    for uri, entry in files:
        key = str(storage.local_path(uri).absolute())
        known = cache.get(key)
        if known and known[:2] == [entry.bytes, entry.mtime_ns]:
            hashes.append(known[2])
            continue
        hashes.append(storage.sha256_file(uri))
        if time.time_ns() - entry.mtime_ns > SETTLED_NS:
            fresh[key] = [entry.bytes, entry.mtime_ns, hashes[-1]]
    if fresh:
        _write_cache(_read_cache() | fresh)
    return hashes


def _cache_file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "s2l_ray" / "sha256.json"


def _read_cache() -> dict[str, Any]:
    try:
        cache = json.loads(_cache_file().read_bytes())
    except (OSError, ValueError):
        return {}
    return cache if isinstance(cache, dict) else {}


def _write_cache(cache: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time and nothing else
        storage.write_bytes(str(_cache_file()), json.dumps(cache, indent=0, sort_keys=True).encode())


def file_reference(folder: Path) -> list[list[Any]]:
    """[path in the folder, sha256] of every file below a local folder, in order of their paths."""
    entries = [(str(folder / entry.path), entry) for entry in storage.list_files(str(folder))]
    return [[entry.path, sha] for (_, entry), sha in zip(entries, _hashes(entries), strict=True)]
