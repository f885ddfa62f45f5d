"""The record of runs: `{root}/runs/{name}.json`, one entry each time a job of that name begins to build.

In: a run's name and the fingerprints of its artefacts. Out: the entries, oldest first; entries are only ever appended.
"""

import time
from typing import Any

from s2l_ray import storage
from s2l_ray.artifacts.fingerprint import seal, unseal


def runs_uri(root: str, name: str) -> str:
    """Where the entries of a run lie."""
    return storage.join(root, "runs", f"{name}.json")


def entries(root: str, name: str) -> list[dict[str, Any]]:
    """All entries of a run, oldest first: {time, fingerprints, config}."""
    return _read(runs_uri(root, name))[0]


def named_by_any(root: str) -> set[str]:
    """The fingerprints that any entry of any run names. Raises `DamagedError` where a record cannot be read."""
    named: set[str] = set()
    for name in _names(root):
        named.update(*(found["fingerprints"].values() for found in entries(root, name)))
    return named


def newest_entries(root: str) -> dict[str, dict[str, str]]:
    """`last_entry` of every run. Raises `DamagedError` where a record cannot be read."""
    return {name: last_entry(root, name) for name in _names(root)}


def _names(root: str) -> list[str]:
    return [entry.path.removesuffix(".json") for entry in storage.list_files(storage.join(root, "runs"))]


def _read(uri: str) -> tuple[list[dict[str, Any]], str | None]:
    try:
        data, version = storage.read_version(uri)
    except FileNotFoundError:
        return [], None
    return list(unseal(data, uri)["entries"]), version


def last_entry(root: str, name: str) -> dict[str, str]:
    """The fingerprints of the newest entry by kind; none where the run is new."""
    found = entries(root, name)
    return dict(found[-1]["fingerprints"]) if found else {}


def record_run(root: str, name: str, fingerprints: dict[str, str], config: dict[str, Any]) -> None:
    """Append an entry, unless the newest one says the same; one that another driver appends meanwhile stays."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    while True:
        found, version = _read(runs_uri(root, name))
        if found and found[-1]["fingerprints"] == fingerprints:
            return
        found.append({"time": now, "fingerprints": fingerprints, "config": config})
        if storage.write_if(runs_uri(root, name), seal({"run": name, "entries": found}), version) is not None:
            return
