"""What lies below a root: artefacts and the runs that name them.

In: the URI of a root. Out: one record an artefact, finished or not, and one a run. Everything is read from one listing,
the manifests and the records of runs; no table is opened.
"""

import calendar
import posixpath
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from s2l_ray import storage
from s2l_ray.artifacts.lock import LOCK, is_live, read_holder
from s2l_ray.artifacts.manifest import MANIFEST, open_artifact
from s2l_ray.artifacts.runs import entries
from s2l_ray.errors import DamagedError, S2LError

ORDER = ("dataset", "checkpoints", "trajectories", "clusters", "subset")
ASIDE = "aside"
MANIFESTS_AT_ONCE = 16
FINGERPRINT = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class Found:
    """One artefact: `state` is complete, partial, building or damaged; `changed` in seconds since the epoch.

    `rows` and `counts` are those of its manifest; `runs` the runs any entry of which names it; `problem` why it is
    damaged, or who builds it.
    """

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
class FoundRun:
    """One run: how often it began to build something, when last, and what its newest entry names."""

    name: str
    entries: int
    last: float
    fingerprints: dict[str, str]
    problem: str = ""


@dataclass(frozen=True)
class Inventory:
    """All that lies below a root. `aside_bytes` is what `--rebuild` moved out of the way."""

    root: str
    artifacts: tuple[Found, ...]
    runs: tuple[FoundRun, ...]
    aside_bytes: int = 0


def take_inventory(root: str) -> Inventory:
    """List a root. Raises `S2LError` where it holds neither artefacts nor runs."""
    folders: dict[tuple[str, str], list[storage.Entry]] = {}
    run_names: list[str] = []
    aside_bytes = 0
    for entry in storage.list_files(root):
        top, _, rest = entry.path.partition("/")
        name, _, path = rest.partition("/")
        if top == "runs" and name.endswith(".json"):
            run_names.append(name.removesuffix(".json"))
        elif top == ASIDE:
            aside_bytes += entry.bytes
        elif path and FINGERPRINT.fullmatch(name):
            folders.setdefault((top, name), []).append(storage.Entry(path, entry.bytes, entry.mtime_ns))
    if not folders and not run_names:
        raise S2LError(f"{root}: no artefacts there; give the root of a job, the key `root` of its file")
    named = _names(root, run_names)
    with ThreadPoolExecutor(MANIFESTS_AT_ONCE) as threads:
        found = list(threads.map(lambda place: _found(root, place[0], place[1], folders[place], named), folders))
    runs = tuple(_run(root, name) for name in sorted(run_names))
    return Inventory(root, tuple(sorted(found, key=_place)), runs, aside_bytes)


def root_of(uri: str) -> str:
    """The root of an artefact at `{root}/{kind}/{fingerprint}`."""
    whole = posixpath.abspath(uri) if storage.is_local(uri) else uri.rstrip("/")
    return posixpath.dirname(posixpath.dirname(whole))


def find_unfinished(uri: str) -> Found | None:
    """The artefact there, if it was begun and has no manifest."""
    listed = storage.list_files(uri)
    if not listed or any(entry.path == MANIFEST for entry in listed):
        return None
    kind, name = posixpath.split(uri.rstrip("/"))
    return _found(root_of(uri), posixpath.basename(kind), name, listed, {})


def _found(root: str, kind: str, name: str, listed: list[storage.Entry], named: dict[str, tuple[str, ...]]) -> Found:
    uri = storage.join(root, kind, name)
    sizes = {entry.path: entry.bytes for entry in listed}
    state, problem, rows = _state(uri, sizes)
    changed = max(entry.mtime_ns for entry in listed) / 1e9
    return Found(kind, name, uri, state, rows, len(listed), sum(sizes.values()), changed, named.get(name, ()), problem)


def _state(uri: str, sizes: dict[str, int]) -> tuple[str, str, int | None]:
    if MANIFEST not in sizes:
        holder = read_holder(storage.join(uri, LOCK)) if LOCK in sizes else None
        if holder is not None and is_live(holder):
            return "building", f"by {holder.job}, pid {holder.pid} on {holder.host}", None
        return "partial", "", None
    try:
        artifact = open_artifact(uri)
    except DamagedError:
        return "damaged", MANIFEST, None
    rows = artifact.manifest.counts.get("kept")
    wrong = [record.path for record in artifact.present() if sizes.get(record.path) != record.bytes]
    return ("damaged", wrong[0], rows) if wrong else ("complete", "", rows)


def _names(root: str, runs: list[str]) -> dict[str, tuple[str, ...]]:
    """The runs that name each fingerprint."""
    named: dict[str, set[str]] = {}
    for run in runs:
        try:
            for entry in entries(root, run):
                for name in entry["fingerprints"].values():
                    named.setdefault(name, set()).add(run)
        except DamagedError:
            continue
    return {name: tuple(sorted(by)) for name, by in named.items()}


def _run(root: str, name: str) -> FoundRun:
    try:
        found = entries(root, name)
    except DamagedError as error:
        return FoundRun(name, 0, 0.0, {}, str(error))
    last = float(calendar.timegm(time.strptime(found[-1]["time"], "%Y-%m-%dT%H:%M:%SZ")))
    return FoundRun(name, len(found), last, dict(found[-1]["fingerprints"]))


def _place(found: Found) -> tuple[int, str, float]:
    known = ORDER.index(found.kind) if found.kind in ORDER else len(ORDER)
    return known, found.kind, -found.changed
