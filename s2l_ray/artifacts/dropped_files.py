"""Files of a finished artefact that nobody needs any more, taken away on purpose.

In: a finished artefact and paths of it. Out: `dropped.json` beside the manifest, which is never touched, and then no
such files. The record comes first, so that a file which a killed driver left is known as one that may go, and none is
ever missing without a word.
"""

from collections.abc import Collection

from s2l_ray import storage
from s2l_ray.artifacts.fingerprint import seal, unseal

DROPPED = "dropped.json"


def read_dropped(uri: str) -> frozenset[str]:
    """The paths that were dropped of an artefact, whether they still lie there or not."""
    place = storage.join(uri, DROPPED)
    try:
        return frozenset(unseal(storage.read_bytes(place), place)["files"])
    except FileNotFoundError:
        return frozenset()


def drop(uri: str, paths: Collection[str]) -> list[str]:
    """Drop files of a finished artefact, and what is left of files dropped before. Gives those that lay there."""
    before = read_dropped(uri)
    dropped = before.union(paths)
    if dropped != before:
        storage.write_bytes(storage.join(uri, DROPPED), seal({"files": sorted(dropped)}))
    left = [entry.path for entry in storage.list_files(uri) if entry.path in dropped]
    for path in left:
        storage.delete_file(storage.join(uri, path))
    return left
