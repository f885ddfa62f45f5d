"""Listing of a root: its artifacts with their states, and its runs. Opens manifests and run histories, no tables."""

import calendar
import posixpath
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from s2l_ray import storage
from s2l_ray.artifacts.lock import LOCK, live_holder
from s2l_ray.artifacts.manifest import MANIFEST, Artifact, open_artifact
from s2l_ray.artifacts.runs import HISTORY, read_history
from s2l_ray.artifacts.schemas import KINDS
from s2l_ray.errors import DamagedError, S2LError

COMPLETE, PARTIAL, MISSING, DAMAGED, BUILDING = "complete", "partial", "missing", "damaged", "building"
UNRESOLVED = "unresolved"  # of a step whose fingerprint depends on an unknown commit
REPLACED = "replaced"
MANIFEST_THREADS = 16
FINGERPRINT = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class ArtifactState:
    """State of one artifact. problem: why it is damaged, or who builds it. artifact: if complete."""

    name: str
    problem: str = ""
    artifact: Artifact | None = None


@dataclass(frozen=True)
class ArtifactInfo:
    """One artifact below a root. rows: kept ones. changed: seconds since the epoch. runs: names of runs that use it."""

    kind: str
    fingerprint: str
    uri: str
    state: str
    rows: int | None
    files: int
    bytes: int
    changed: float
    runs: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class RunInfo:
    """One run: number of entries in its history, time of the newest, and the fingerprints that one names."""

    name: str
    entries: int
    last: float
    fingerprints: dict[str, str]
    problem: str = ""


@dataclass(frozen=True)
class Listing:
    """Everything below a root. replaced_bytes: size of the artifacts that `--rebuild` replaced."""

    root: str
    artifacts: tuple[ArtifactInfo, ...]
    runs: tuple[RunInfo, ...]
    replaced_bytes: int = 0


def list_root(root: str) -> Listing:
    """List a root. Raises `S2LError` where it holds neither artifacts nor runs."""
    folders: dict[tuple[str, str], list[storage.Entry]] = {}
    run_names: list[str] = []
    replaced_bytes = 0
    for entry in storage.list_files(root):
        top, _, rest = entry.path.partition("/")
        name, _, path = rest.partition("/")
        if top == "runs" and path == HISTORY:
            run_names.append(name)
        elif top == REPLACED:
            replaced_bytes += entry.bytes
        elif top != "runs" and path and FINGERPRINT.fullmatch(name):
            folders.setdefault((top, name), []).append(storage.Entry(path, entry.bytes, entry.mtime_ns))
    if not folders and not run_names:
        raise S2LError(f"{root}: no artifacts there; give the root of a job, the key `root` of its file")
    runs = [_read_run(root, name) for name in sorted(run_names)]

    def info(folder: tuple[str, str]) -> ArtifactInfo:
        kind, fingerprint = folder
        users = tuple(run.name for run, used in runs if fingerprint in used)
        return _artifact_info(root, kind, fingerprint, folders[folder], users)

    with ThreadPoolExecutor(MANIFEST_THREADS) as threads:
        artifacts = sorted(threads.map(info, folders), key=_sort_key)
    return Listing(root, tuple(artifacts), tuple(run for run, _ in runs), replaced_bytes)


def find_incomplete(uri: str) -> ArtifactInfo | None:
    """The artifact at `uri`, if it was begun and has no manifest."""
    entries = storage.list_files(uri)
    if not entries or any(entry.path == MANIFEST for entry in entries):
        return None
    whole = posixpath.abspath(uri) if storage.is_local(uri) else uri.rstrip("/")
    parent, fingerprint = posixpath.split(whole)
    root, kind = posixpath.split(parent)
    return _artifact_info(root, kind, fingerprint, entries, ())


def artifact_state(uri: str, entries: Sequence[storage.Entry]) -> ArtifactState:
    """State of an artifact from the listing of its folder: its manifest, and the sizes of its files."""
    sizes = {entry.path: entry.bytes for entry in entries}
    if MANIFEST not in sizes:
        holder = live_holder(uri) if LOCK in sizes else None
        if holder is not None:
            return ArtifactState(BUILDING, f"by {holder.job}, pid {holder.pid} on {holder.host}")
        units = sum(path.endswith(".parquet") for path in sizes)
        return ArtifactState(PARTIAL, f"begun, {units} files stored") if sizes else ArtifactState(MISSING)
    try:
        artifact = open_artifact(uri)
    except S2LError as error:
        return ArtifactState(DAMAGED, str(error))
    wrong = [record.path for record in artifact.present() if sizes.get(record.path) != record.bytes]
    if wrong:
        problem = "is missing" if wrong[0] not in sizes else "has the wrong size"
        return ArtifactState(DAMAGED, f"{wrong[0]} {problem}", artifact)
    return ArtifactState(COMPLETE, "", artifact)


def _artifact_info(
    root: str, kind: str, fingerprint: str, entries: Sequence[storage.Entry], runs: tuple[str, ...]
) -> ArtifactInfo:
    uri = storage.join(root, kind, fingerprint)
    state = artifact_state(uri, entries)
    rows = state.artifact.manifest.counts.kept if state.artifact else None
    size, changed = sum(entry.bytes for entry in entries), max(entry.mtime_ns for entry in entries) / 1e9
    return ArtifactInfo(kind, fingerprint, uri, state.name, rows, len(entries), size, changed, runs, state.problem)


def _read_run(root: str, name: str) -> tuple[RunInfo, set[str]]:
    """A run, and the fingerprints that any of its entries names."""
    try:
        history = read_history(root, name)
    except DamagedError as error:
        return RunInfo(name, 0, 0.0, {}, str(error)), set()
    newest, used = history[-1], {fingerprint for entry in history for fingerprint in entry.fingerprints.values()}
    started = calendar.timegm(time.strptime(newest.started.partition("-")[0], "%Y%m%dT%H%M%SZ"))
    return RunInfo(name, len(history), float(started), dict(newest.fingerprints)), used


def _sort_key(info: ArtifactInfo) -> tuple[int, str, float]:
    position = KINDS.index(info.kind) if info.kind in KINDS else len(KINDS)
    return position, info.kind, -info.changed
