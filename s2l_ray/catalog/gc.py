"""What lies below a root and serves nothing any more, and its removal.

In: the URI of a root. Out: one record for each thing that may go: artefacts that no entry of any run names, what
`--rebuild` moved aside, files in finished artefacts that their manifests do not list, files whose writer broke off.
What a run names stays, finished or not, since the same command goes on with it; so does what somebody builds now.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from s2l_ray import storage
from s2l_ray.artifacts.lock import LOCK, Lock, is_live, read_holder
from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.artifacts.runs import named_by_any
from s2l_ray.catalog.listing import ASIDE, ORDER, Found, take_inventory
from s2l_ray.catalog.verify import OWN_FILES
from s2l_ray.errors import LockedError

UNNAMED, MOVED_ASIDE, LEFT_BEHIND, BROKEN_OFF = "named by no run", "moved aside", "left behind", "broken off"
BROKEN_OFF_SECONDS = 86_400.0
"""An upload takes hours at most; one that was begun longer ago goes on no more."""


@dataclass(frozen=True)
class Garbage:
    """Something that may go: a whole folder, or `paths` in it. `changed` is in seconds since the epoch."""

    uri: str
    why: str
    files: int
    bytes: int
    changed: float
    paths: tuple[str, ...] = ()


def find_garbage(root: str) -> list[Garbage]:
    """What may go below a root, by what it is.

    Raises `S2LError` where the root holds no artefacts, or where the record of a run is damaged: it may name any.
    """
    named = named_by_any(root)
    artifacts = [one for one in take_inventory(root).artifacts if one.kind in ORDER]  # of others we know nothing
    unnamed = [one for one in artifacts if one.fingerprint not in named and one.state != "building"]
    finished = [one for one in artifacts if one.fingerprint in named and one.state == "complete"]
    left_behind = [garbage for one in finished for garbage in _left_behind(one)]
    return [*map(_whole, unnamed), *_moved_aside(root), *left_behind, *_broken_off(root)]


def remove_garbage(root: str, found: list[Garbage]) -> Iterator[Garbage]:
    """Remove what was found, one after the other, and yield each once it is gone.

    What a run has come to name since, or somebody has begun to build, stays and is not yielded.
    """
    for one in found:
        if _remove_unnamed(root, one) if one.why == UNNAMED else _remove(one):
            yield one


def _remove_unnamed(root: str, one: Garbage) -> bool:
    """A driver records its run before it locks an artefact: under this lock the records say whether one came."""
    lock = Lock(one.uri, "gc")
    try:
        lock.acquire()
    except LockedError:
        return False
    try:
        if one.uri.rsplit("/", 1)[-1] in named_by_any(root):
            return False
        storage.delete_folder(one.uri)
    finally:
        lock.release()
    return True


def _remove(one: Garbage) -> bool:
    if one.why == MOVED_ASIDE:
        storage.delete_folder(one.uri)
    elif one.why == LEFT_BEHIND:
        if _is_locked(one.uri):
            return False
        for path in one.paths:
            storage.delete_file(storage.join(one.uri, path))
    else:
        for entry in storage.list_temporary_files(one.uri):
            if entry.path in one.paths and _is_old(entry):
                storage.delete_file(storage.join(one.uri, entry.path))
    return True


def _whole(one: Found) -> Garbage:
    return Garbage(one.uri, UNNAMED, one.files, one.bytes, one.changed)


def _moved_aside(root: str) -> list[Garbage]:
    folders: dict[str, list[storage.Entry]] = {}
    for entry in storage.list_files(storage.join(root, ASIDE)):
        folders.setdefault(entry.path.partition("/")[0], []).append(entry)
    return [_listed(storage.join(root, ASIDE, name), MOVED_ASIDE, entries) for name, entries in folders.items()]


def _left_behind(one: Found) -> list[Garbage]:
    """Files that only the making of an artefact needed; a killed driver could not remove them."""
    listed = {record.path for record in open_artifact(one.uri).present()} | OWN_FILES
    strangers = [entry for entry in storage.list_files(one.uri) if entry.path not in listed]
    if not strangers or _is_locked(one.uri):
        return []
    return [_listed(one.uri, LEFT_BEHIND, strangers, tuple(entry.path for entry in strangers))]


def _broken_off(root: str) -> list[Garbage]:
    old = [entry for entry in storage.list_temporary_files(root) if _is_old(entry)]
    return [_listed(root, BROKEN_OFF, old, tuple(entry.path for entry in old))] if old else []


def _listed(uri: str, why: str, entries: list[storage.Entry], paths: tuple[str, ...] = ()) -> Garbage:
    changed = max(entry.mtime_ns for entry in entries) / 1e9
    return Garbage(uri, why, len(entries), sum(entry.bytes for entry in entries), changed, paths)


def _is_locked(uri: str) -> bool:
    holder = read_holder(storage.join(uri, LOCK))
    return holder is not None and is_live(holder)


def _is_old(entry: storage.Entry) -> bool:
    return time.time() - entry.mtime_ns / 1e9 > BROKEN_OFF_SECONDS
