"""Verification of stored files against their checksums.

A complete artifact is checked against its manifest. Files of an incomplete one are checked one by one: each carries
its own checksum or, as a table, encodes back to the same bytes.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from s2l_ray import storage
from s2l_ray.artifacts.execution import EXECUTION
from s2l_ray.artifacts.fingerprint import unseal
from s2l_ray.artifacts.lock import LOCK
from s2l_ray.artifacts.manifest import DROPPED, FILES_TABLE, MANIFEST, Artifact, open_artifact
from s2l_ray.artifacts.runs import HISTORY
from s2l_ray.artifacts.schemas import CHECKPOINT_RECORD, RESUME_FOLDER
from s2l_ray.artifacts.tables import FileRecord, check_file, is_intact
from s2l_ray.catalog.listing import FINGERPRINT, list_root
from s2l_ray.errors import DamagedError, S2LError

UNLISTED_FILES = {MANIFEST, EXECUTION, FILES_TABLE, DROPPED}
THREADS = 8


@dataclass(frozen=True)
class Fault:
    """A file that differs from what was written."""

    path: str
    problem: str
    left_over: bool = False


@dataclass(frozen=True)
class Verified:
    """An artifact or a run history after every file of it was read. complete: an artifact with a manifest."""

    uri: str
    files: int
    bytes: int
    faults: tuple[Fault, ...]
    complete: bool = False


def verify(uri: str) -> Iterator[Verified]:
    """Verify one artifact, or all artifacts and run histories below a root."""
    if FINGERPRINT.fullmatch(uri.rstrip("/").rsplit("/", 1)[-1]) or storage.exists(storage.join(uri, MANIFEST)):
        yield verify_artifact(uri.rstrip("/"))
        return
    listing = list_root(uri)
    for info in listing.artifacts:
        yield verify_artifact(info.uri)
    for run in listing.runs:
        history = storage.join(uri, "runs", run.name, HISTORY)
        faults = (Fault(HISTORY, run.problem),) if run.problem else ()
        yield Verified(history, 1, storage.size(history), faults)


def verify_artifact(uri: str) -> Verified:
    """Read every file below an artifact's folder. Raises `S2LError` where there is none."""
    entries = storage.list_files(uri)
    if not entries:
        raise S2LError(f"{uri}: does not exist; `s2l ls ROOT` lists the artifacts of a root")
    size, complete = sum(entry.bytes for entry in entries), any(entry.path == MANIFEST for entry in entries)
    return Verified(uri, len(entries), size, tuple(_faults(uri, entries)), complete)


def _faults(uri: str, entries: list[storage.Entry]) -> Iterator[Fault]:
    paths = [entry.path for entry in entries if not entry.path.startswith(f"{RESUME_FOLDER}/")]
    if MANIFEST not in paths:
        yield from _faults_of_incomplete(uri, paths)
        return
    try:
        artifact = open_artifact(uri)
    except S2LError as error:
        yield Fault(MANIFEST, str(error))
        return
    yield from _faults_of_complete(artifact, paths)


def _faults_of_complete(artifact: Artifact, paths: list[str]) -> Iterator[Fault]:
    with ThreadPoolExecutor(THREADS) as threads:
        faults = threads.map(lambda record: _file_fault(artifact.uri, record), artifact.present())
        yield from (fault for fault in faults if fault is not None)
    yield from _sealed_faults(artifact.uri, EXECUTION, paths)
    known = {record.path for record in artifact.present()} | UNLISTED_FILES | {LOCK}
    for path in paths:
        if path not in known:
            why = "dropped" if path in artifact.dropped else "not in the manifest"
            yield Fault(path, f"{why}: left over, safe to delete", left_over=True)


def _faults_of_incomplete(uri: str, paths: list[str]) -> Iterator[Fault]:
    yield from _sealed_faults(uri, EXECUTION, paths)
    for path in paths:
        if path.endswith(f"/{CHECKPOINT_RECORD}"):
            yield from _checkpoint_faults(uri, path)
        if path.endswith(".parquet") and not is_intact(storage.read_bytes(storage.join(uri, path))):
            yield Fault(path, "damaged; `s2l run` rebuilds this unit")


def _file_fault(folder: str, record: FileRecord) -> Fault | None:
    try:
        check_file(folder, record)
    except DamagedError as error:
        return Fault(record.path, str(error))
    return None


def _sealed_faults(uri: str, path: str, paths: list[str]) -> Iterator[Fault]:
    if path in paths:
        try:
            unseal(storage.read_bytes(storage.join(uri, path)), storage.join(uri, path))
        except DamagedError as error:
            yield Fault(path, str(error))


def _checkpoint_faults(uri: str, path: str) -> Iterator[Fault]:
    """Check the files of a checkpoint against its sealed record."""
    folder = path.removesuffix(f"/{CHECKPOINT_RECORD}")
    try:
        sealed = unseal(storage.read_bytes(storage.join(uri, path)), path)
    except DamagedError as error:
        yield Fault(path, str(error))
        return
    for entry in sealed["files"]:
        fault = _file_fault(storage.join(uri, folder), FileRecord(**entry))
        if fault is not None:
            yield Fault(f"{folder}/{fault.path}", fault.problem)
