"""Garbage collection below a root.

Collectable are: artifacts that no entry of any run names, artifacts replaced by `--rebuild`, files in complete
artifacts that their manifests do not list, and old temporary files. Artifacts named by a run stay, complete or not,
because the same command resumes them; so does whatever is being built.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from s2l_ray import storage
from s2l_ray.artifacts.lock import Lock, live_holder
from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.artifacts.runs import named_by_any_run
from s2l_ray.artifacts.schemas import KINDS
from s2l_ray.catalog.listing import BUILDING, COMPLETE, REPLACED, ArtifactInfo, list_root
from s2l_ray.catalog.verify import UNLISTED_FILES
from s2l_ray.errors import LockedError

UNUSED, REPLACED_BY_REBUILD, LEFT_OVER, TEMPORARY = "used by no run", "replaced", "left over", "temporary"
# writing a file takes hours at most, so the writer of an older temporary file is gone
TEMPORARY_SECONDS = 86_400.0


@dataclass(frozen=True)
class Garbage:
    """A collectable folder, or `paths` inside it. changed: seconds since the epoch."""

    uri: str
    why: str
    files: int
    bytes: int
    changed: float
    paths: tuple[str, ...] = ()


def find_garbage(root: str) -> list[Garbage]:
    """Everything collectable below a root.

    Raises `S2LError` where the root holds no artifacts or a run history is damaged, since that may name any artifact.
    """
    named = named_by_any_run(root)
    artifacts = [one for one in list_root(root).artifacts if one.kind in KINDS]
    unnamed = [one for one in artifacts if one.fingerprint not in named and one.state != BUILDING]
    complete = [one for one in artifacts if one.fingerprint in named and one.state == COMPLETE]
    unused = [Garbage(one.uri, UNUSED, one.files, one.bytes, one.changed) for one in unnamed]
    left_over = [garbage for one in complete for garbage in _left_over(one)]
    return [*unused, *_replaced(root), *left_over, *_temporary_files(root)]


def remove_garbage(root: str, found: list[Garbage]) -> Iterator[Garbage]:
    """Delete what was found and yield each item once it is deleted.

    Items that a run has named, or a driver has begun to build, in the meantime are kept and not yielded.
    """
    for one in found:
        if _remove_unused(root, one) if one.why == UNUSED else _remove(one):
            yield one


def _remove_unused(root: str, one: Garbage) -> bool:
    """Delete an artifact under its lock: drivers record their run before they lock, so the history is up to date."""
    lock = Lock(one.uri, "gc")
    try:
        lock.acquire()
    except LockedError:
        return False
    try:
        if one.uri.rsplit("/", 1)[-1] in named_by_any_run(root):
            return False
        storage.delete_folder(one.uri)
    finally:
        lock.release()
    return True


def _remove(one: Garbage) -> bool:
    if one.why == REPLACED_BY_REBUILD:
        storage.delete_folder(one.uri)
    elif one.why == LEFT_OVER:
        if live_holder(one.uri) is not None:
            return False
        for path in one.paths:
            storage.delete_file(storage.join(one.uri, path))
    else:
        for entry in storage.list_temporary_files(one.uri):
            if entry.path in one.paths and _is_old(entry):
                storage.delete_file(storage.join(one.uri, entry.path))
    return True


def _replaced(root: str) -> list[Garbage]:
    folder = storage.join(root, REPLACED)
    folders: dict[str, list[storage.Entry]] = {}
    for entry in storage.list_files(folder):
        folders.setdefault(entry.path.partition("/")[0], []).append(entry)
    return [_listed(storage.join(folder, name), REPLACED_BY_REBUILD, entries) for name, entries in folders.items()]


def _left_over(one: ArtifactInfo) -> list[Garbage]:
    """Files that only the building needed and a killed driver could not delete."""
    listed = {record.path for record in open_artifact(one.uri).present()} | UNLISTED_FILES
    unlisted = [entry for entry in storage.list_files(one.uri) if entry.path not in listed]
    if not unlisted or live_holder(one.uri) is not None:
        return []
    return [_listed(one.uri, LEFT_OVER, unlisted, tuple(entry.path for entry in unlisted))]


def _temporary_files(root: str) -> list[Garbage]:
    old = [entry for entry in storage.list_temporary_files(root) if _is_old(entry)]
    return [_listed(root, TEMPORARY, old, tuple(entry.path for entry in old))] if old else []


def _listed(uri: str, why: str, entries: list[storage.Entry], paths: tuple[str, ...] = ()) -> Garbage:
    changed = max(entry.mtime_ns for entry in entries) / 1e9
    return Garbage(uri, why, len(entries), sum(entry.bytes for entry in entries), changed, paths)


def _is_old(entry: storage.Entry) -> bool:
    return time.time() - entry.mtime_ns / 1e9 > TEMPORARY_SECONDS
