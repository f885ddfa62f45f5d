"""Files of a complete artifact that were deleted on purpose, recorded in `dropped.json`.

The record is written before any file is deleted, so that a crash never leaves an unexplained missing file. The manifest
is not changed.
"""

from collections.abc import Collection

from s2l_ray import storage
from s2l_ray.artifacts.fingerprint import seal, unseal

DROPPED = "dropped.json"


def read_dropped(uri: str) -> frozenset[str]:
    """Paths of the dropped files, including those not deleted yet."""
    record = storage.join(uri, DROPPED)
    try:
        return frozenset(unseal(storage.read_bytes(record), record)["files"])
    except FileNotFoundError:
        return frozenset()


def drop(uri: str, paths: Collection[str]) -> list[str]:
    """Record and delete files, and those that an interrupted call left. Returns the paths that were deleted."""
    before = read_dropped(uri)
    dropped = before.union(paths)
    if dropped != before:
        storage.write_bytes(storage.join(uri, DROPPED), seal({"files": sorted(dropped)}))
    left = [entry.path for entry in storage.list_files(uri) if entry.path in dropped]
    for path in left:
        storage.delete_file(storage.join(uri, path))
    return left
