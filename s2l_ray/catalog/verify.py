"""Is what lies in storage what was written? Every file of an artefact, finished or not, against its checksum.

In: the URI of an artefact. Out: the faults, one record each. A finished artefact is held against its manifest; an
unfinished one file by file, since each file of it carries its own proof (a sealed record, or a table that writes back
to the same bytes). `sizes_agree` is the quick form that `plan` uses: manifest and sizes, no content.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from s2l_ray import storage
from s2l_ray.artifacts.dropped_files import DROPPED
from s2l_ray.artifacts.fingerprint import unseal
from s2l_ray.artifacts.lock import LOCK
from s2l_ray.artifacts.manifest import EXECUTION, FILES_TABLE, MANIFEST, Artifact, open_artifact
from s2l_ray.artifacts.tables import FileRecord, check_file, decode_if_unchanged
from s2l_ray.errors import DamagedError, S2LError

OWN_FILES = {MANIFEST, EXECUTION, FILES_TABLE, DROPPED}
RESUME = "resume/"
FILES_AT_ONCE = 8
CHECKPOINT = "checkpoint.json"


@dataclass(frozen=True)
class Fault:
    """A file that is not what it should be."""

    path: str
    problem: str


def verify(uri: str) -> Iterator[Fault]:
    """Recompute everything below an artefact's folder, yield what differs. Raises `S2LError` where nothing lies."""
    paths = [entry.path for entry in storage.list_files(uri)]
    if not paths:
        raise S2LError(f"{uri}: nothing lies there; `s2l ls ROOT` lists the artefacts of a root")
    if MANIFEST not in paths:
        yield from _verify_unfinished(uri, paths)
        return
    try:
        artifact = open_artifact(uri)
    except DamagedError as error:
        yield Fault(MANIFEST, str(error))
        return
    yield from _verify_finished(artifact, paths)


def sizes_agree(artifact: Artifact) -> list[Fault]:
    """Files of a finished artefact that are missing or of another size, from one listing."""
    present = {entry.path: entry.bytes for entry in storage.list_files(artifact.uri)}
    return [
        Fault(record.path, "missing" if record.path not in present else "of another size")
        for record in artifact.present()
        if present.get(record.path) != record.bytes
    ]


def _verify_finished(artifact: Artifact, paths: list[str]) -> Iterator[Fault]:
    with ThreadPoolExecutor(FILES_AT_ONCE) as threads:
        faults = threads.map(lambda record: _fault(artifact.uri, record), artifact.present())
        yield from (fault for fault in faults if fault is not None)
    listed = {record.path for record in artifact.present()} | OWN_FILES
    yield from _sealed_faults(artifact.uri, EXECUTION, paths)
    for path in paths:
        if path not in listed and path != LOCK and not path.startswith(RESUME):
            why = "dropped" if path in artifact.dropped else "not in the manifest"
            yield Fault(path, f"{why}: left behind, safe to remove")


def _fault(folder: str, record: FileRecord) -> Fault | None:
    """What is wrong with a listed file, if anything; it is read in pieces, large ones fit as well."""
    try:
        check_file(folder, record)
    except DamagedError as error:
        return Fault(record.path, str(error))
    return None


def _verify_unfinished(uri: str, paths: list[str]) -> Iterator[Fault]:
    yield from _sealed_faults(uri, EXECUTION, paths)
    folders = [path.removesuffix(f"/{CHECKPOINT}") for path in paths if path.endswith(f"/{CHECKPOINT}")]
    for folder in folders:
        yield from _checkpoint_faults(uri, folder)
    for path in paths:
        is_unit = path.endswith(".parquet") and not path.startswith(RESUME)
        if is_unit and decode_if_unchanged(storage.read_bytes(storage.join(uri, path))) is None:
            yield Fault(path, "damaged; `s2l run` does this unit again")


def _sealed_faults(uri: str, path: str, paths: list[str]) -> Iterator[Fault]:
    if path in paths:
        try:
            unseal(storage.read_bytes(storage.join(uri, path)), storage.join(uri, path))
        except DamagedError as error:
            yield Fault(path, str(error))


def _checkpoint_faults(uri: str, folder: str) -> Iterator[Fault]:
    """A grid checkpoint carries the records of its files in a sealed `checkpoint.json`."""
    path = f"{folder}/{CHECKPOINT}"
    try:
        sealed = unseal(storage.read_bytes(storage.join(uri, path)), path)
    except DamagedError as error:
        yield Fault(path, str(error))
        return
    for entry in sealed["files"]:
        fault = _fault(storage.join(uri, folder), FileRecord(**entry))
        if fault is not None:
            yield Fault(f"{folder}/{fault.path}", fault.problem)
