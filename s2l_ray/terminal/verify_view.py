"""What `verify` finds, artefact by artefact.

In: the URI of an artefact or of a root. Out: the faults of each, as a renderable for people and plain values for a
script.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from s2l_ray import storage
from s2l_ray.artifacts.manifest import MANIFEST
from s2l_ray.catalog.listing import FINGERPRINT, take_inventory
from s2l_ray.catalog.verify import Fault, verify
from s2l_ray.terminal import humanize as figures


@dataclass(frozen=True)
class Checked:
    """One artefact, or the record of a run, after every file of it was read."""

    uri: str
    files: int
    bytes: int
    faults: tuple[Fault, ...]


def check(uri: str) -> Iterator[Checked]:
    """Verify an artefact, or all artefacts and records of runs below a root."""
    if FINGERPRINT.fullmatch(uri.rstrip("/").rsplit("/", 1)[-1]) or storage.exists(storage.join(uri, MANIFEST)):
        yield _checked(uri.rstrip("/"))
        return
    found = take_inventory(uri)
    for one in found.artifacts:
        yield _checked(one.uri)
    for run in found.runs:
        place = storage.join(uri, "runs", f"{run.name}.json")
        faults = (Fault(f"{run.name}.json", run.problem),) if run.problem else ()
        yield Checked(place, 1, storage.size(place), faults)


def _checked(uri: str) -> Checked:
    entries = storage.list_files(uri)
    return Checked(uri, len(entries), sum(entry.bytes for entry in entries), tuple(verify(uri)))


def checked_view(one: Checked) -> RenderableType:
    """A line, and one more for each fault."""
    what = f"{figures.plural(one.files, 'file')}, {figures.size(one.bytes)}"
    if not one.faults:
        return Text.assemble(("✓ ", "green"), one.uri, (f"  {what}", "dim"))
    head = Text.assemble(("✗ ", "bold red"), one.uri, (f"  {what}, {figures.plural(len(one.faults), 'fault')}", "dim"))
    return Group(head, *(Text(f"    {fault.path}: {_said(one, fault)}", "red") for fault in one.faults))


def verdict(checked: list[Checked]) -> str:
    """The end of a check in words, with the remedy where something is damaged."""
    files = figures.plural(sum(one.files for one in checked), "file")
    faults = sum(len(one.faults) for one in checked)
    if not faults:
        return f"{files} checked, none differs from what was written"
    kinds = dict.fromkeys(one.uri.rsplit("/", 2)[-2] for one in checked if one.faults)
    remedy = ", ".join(f"--rebuild {kind}" for kind in kinds if kind != "runs")
    return f"{files} checked, {figures.plural(faults, 'fault')}" + (f"; s2l run JOB {remedy}" if remedy else "")


def checked_values(checked: list[Checked]) -> dict[str, Any]:
    """The check for a script."""
    return {
        "files": sum(one.files for one in checked),
        "faults": sum(len(one.faults) for one in checked),
        "artifacts": [dataclasses.asdict(one) for one in checked],
    }


def _said(one: Checked, fault: Fault) -> str:
    return fault.problem.removeprefix(f"{one.uri}/{fault.path}: ").removeprefix(f"{one.uri}: ")
