"""Records of runs below `{root}/runs/{name}/`.

`history.json` has one entry each time a job of that name begins to build something, with the fingerprints it uses;
`gc` keeps what any entry names. Each run also has a folder `{started}/` with its plan, events, TensorBoard files and
report.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from s2l_ray import storage
from s2l_ray.artifacts.fingerprint import seal, unseal

HISTORY = "history.json"
PLAN = "plan.json"
EVENTS, TENSORBOARD = "events.jsonl", "tensorboard"
REPORT, EXPLORER = "report.html", "explorer.parquet"


@dataclass(frozen=True)
class RunEntry:
    """One run. started: UTC, as in the name of its folder. fingerprints: of its artifacts by kind.

    commits: of models and data sets of the hub, by reference.
    """

    started: str
    fingerprints: dict[str, str]
    config: dict[str, Any]
    commits: dict[str, str] = field(default_factory=dict)


def read_history(root: str, name: str) -> list[RunEntry]:
    """All entries of a run, oldest first. Raises `DamagedError` where the history cannot be read."""
    return _read(storage.join(root, "runs", name, HISTORY))[0]


def run_names(root: str) -> list[str]:
    return storage.list_folders(storage.join(root, "runs"))


def named_by_any_run(root: str) -> set[str]:
    """The fingerprints that any entry of any run names. Raises `DamagedError` where a history cannot be read."""
    entries = [entry for name in run_names(root) for entry in read_history(root, name)]
    return {fingerprint for entry in entries for fingerprint in entry.fingerprints.values()}


def last_fingerprints(root: str, name: str) -> dict[str, str]:
    """The fingerprints of the newest entry by kind; empty for a new run."""
    history = read_history(root, name)
    return dict(history[-1].fingerprints) if history else {}


def last_commits(root: str, name: str) -> dict[str, str]:
    """The commits of the newest entry by reference; empty for a new run."""
    history = read_history(root, name)
    return dict(history[-1].commits) if history else {}


def record_run(
    root: str, name: str, fingerprints: dict[str, str], config: dict[str, Any], commits: Mapping[str, str] | None = None
) -> RunEntry:
    """Append an entry to the history and return it. Entries that other drivers append at the same time are kept."""
    uri = storage.join(root, "runs", name, HISTORY)
    while True:
        history, version = _read(uri)
        entry = RunEntry(_unused_start(history), fingerprints, config, dict(commits or {}))
        values = {"run": name, "entries": [asdict(one) for one in [*history, entry]]}
        if storage.write_if(uri, seal(values), version) is not None:
            return entry


def write_plan(root: str, name: str, started: str, plan: Mapping[str, object]) -> None:
    """Store the plan of a run, sealed, in the run's folder."""
    storage.write_bytes(storage.join(run_folder(root, name, started), PLAN), seal(plan))


def read_plan(root: str, name: str, started: str) -> dict[str, Any]:
    """The plan of a run. Raises `FileNotFoundError`, and `DamagedError` where it cannot be read."""
    uri = storage.join(run_folder(root, name, started), PLAN)
    return unseal(storage.read_bytes(uri), uri)


def run_folder(root: str, name: str, started: str) -> str:
    """URI of the folder of one run."""
    return storage.join(root, "runs", name, started)


def _unused_start(history: list[RunEntry]) -> str:
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    same_second = sum(entry.started.partition("-")[0] == now for entry in history)
    return f"{now}-{same_second}" if same_second else now


def _read(uri: str) -> tuple[list[RunEntry], str | None]:
    try:
        data, version = storage.read_version(uri)
    except FileNotFoundError:
        return [], None
    return [RunEntry(**entry) for entry in unseal(data, uri)["entries"]], version
