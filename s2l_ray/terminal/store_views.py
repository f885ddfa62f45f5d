"""What `ls` and `show` show.

In: inventories and manifests. Out: renderables.
"""

import re
from typing import Any

import pyarrow as pa
from rich.console import Group, RenderableType
from rich.text import Text

from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.tables import FileRecord
from s2l_ray.catalog.listing import Found, Inventory
from s2l_ray.terminal import humanize as figures
from s2l_ray.terminal.layout import clipped, facts, indented, state, table

SHORT_ROW = 110
"""Rows of at most so many characters stand in a table, others in blocks, a line a column."""


def inventory_view(found: Inventory) -> RenderableType:
    """Artefacts by kind, newest first; below them the runs."""
    artifacts = table(
        "kind", "name", "state", "rows", "files", "size", "changed", "runs", right=("rows", "files", "size")
    )
    for one in found.artifacts:
        noted = state(one.state) + Text(f" ({one.problem})" if one.problem else "", "dim")
        artifacts.add_row(
            one.kind,
            one.fingerprint,
            noted,
            figures.count(one.rows),
            figures.count(one.files),
            figures.size(one.bytes),
            figures.age(one.changed),
            ", ".join(one.runs) or Text("none", "dim"),
        )
    runs = table("run", "begun", "last", "names", right=("begun",))
    states = {one.fingerprint: one.state for one in found.artifacts}
    for run in found.runs:
        ready = sum(states.get(name) == "complete" for name in run.fingerprints.values())
        words = Text(run.problem, "red") if run.problem else f"{ready} of {len(run.fingerprints)} artefacts complete"
        runs.add_row(run.name, figures.plural(run.entries, "time"), figures.age(run.last), words)
    total = sum(one.bytes for one in found.artifacts)
    end = f"{figures.plural(len(found.artifacts), 'artefact')}, {figures.size(total)}"
    if found.aside_bytes:
        end += f"; {figures.size(found.aside_bytes)} moved aside by --rebuild, in {found.root}/aside"
    return indented(artifacts, runs, Text(end, "dim"))


def manifest_view(artifact: Artifact, first: pa.Table | None) -> RenderableType:
    """A finished artefact."""
    manifest, dropped = artifact.manifest, len(artifact.dropped)
    head = facts(
        {
            "place": Text(artifact.uri, overflow="fold"),
            "made from": "\n".join(f"{kind} {name}" for kind, name in manifest.inputs.items()) or None,
            "rows": _rows(manifest.counts),
            "set aside": figures.listed(manifest.counts.get("set_aside", {})) or None,
            "took": figures.duration(manifest.timings["seconds"]) if "seconds" in manifest.timings else None,
            "finished": _finished(manifest.provenance),
            "dropped": f"{dropped} files of weights, after they were scored" if dropped else None,
        }
    )
    title = Text.assemble((manifest.kind, "bold"), f" {manifest.fingerprint}")
    parts: list[RenderableType] = [title, head, _files(artifact.present())]
    for name, values in (("facts", manifest.facts), ("identity", manifest.identity), ("execution", manifest.execution)):
        if values:
            parts.append(_section(name, values))
    parts += [_records(name, value) for name, value in manifest.facts.items() if _are_records(value)]
    if first is not None and len(first):
        parts.append(_first_rows(first))
    return indented(*parts)


def unfinished_view(found: Found, execution: dict[str, Any] | None) -> RenderableType:
    """An artefact that was begun."""
    head = facts(
        {
            "place": Text(found.uri, overflow="fold"),
            "state": state(found.state)
            + Text(f" {found.problem}" if found.problem else "; nobody builds it now", "dim"),
            "files": f"{figures.plural(found.files, 'file')}, {figures.size(found.bytes)}",
            "changed": figures.age(found.changed),
        }
    )
    title = Text.assemble((found.kind, "bold"), f" {found.fingerprint}")
    return indented(title, head, *([_section("execution", execution)] if execution else []))


def _rows(counts: dict[str, Any]) -> str | None:
    if "kept" not in counts:
        return None
    return f"{counts['kept']:,} kept of {counts.get('read', counts['kept']):,}"


def _finished(provenance: dict[str, Any]) -> str | None:
    if "finished" not in provenance:
        return None
    return f"{provenance['finished']} on {provenance.get('host')}, by `{provenance.get('command')}`"


def _files(files: list[FileRecord]) -> RenderableType:
    """Files whose names differ in their numbers alone stand in one line."""
    groups: dict[str, list[FileRecord]] = {}
    for record in files:
        groups.setdefault(re.sub(r"\d+", "*", record.path), []).append(record)
    made = table("files", "", "rows", "size", right=("", "rows", "size"))
    for pattern, records in groups.items():
        rows = sum(record.rows or 0 for record in records) if records[0].rows is not None else None
        name = records[0].path if len(records) == 1 else pattern
        made.add_row(name, f"{len(records):,}", figures.count(rows), figures.size(sum(one.bytes for one in records)))
    return made


def _section(name: str, values: dict[str, Any]) -> RenderableType:
    pairs: dict[str, RenderableType | None] = {key: Text(value) for key, value in _flat(values).items()}
    return Group(Text(name, "bold"), facts(pairs))


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted keys with short texts; counts by name in one line; lists of records are shown apart."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value and all(isinstance(inner, int) for inner in value.values()):
            flat[f"{prefix}{key}"] = clipped(figures.listed(value))
        elif isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        elif not _are_records(value):
            flat[f"{prefix}{key}"] = _cell(value)
    return flat


def _are_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _records(name: str, records: list[dict[str, Any]]) -> RenderableType:
    names = list(dict.fromkeys(key for record in records for key in record))
    made = table(*names, right=tuple(names))
    for record in records:
        made.add_row(*(_cell(record.get(key)) for key in names))
    return Group(Text(name, "bold"), made)


def _first_rows(first: pa.Table) -> RenderableType:
    rows = [{name: _cell(value) for name, value in row.items()} for row in first.to_pylist()]
    title = Text("first rows", "bold")
    if max(sum(len(value) + 2 for value in row.values()) for row in rows) <= SHORT_ROW:
        made = table(*rows[0])
        for row in rows:
            made.add_row(*(Text(value) for value in row.values()))
        return Group(title, made)
    blocks: list[RenderableType] = [title]
    for row in rows:
        blocks += [facts({name: Text(value) for name, value in row.items()}), Text()]
    return Group(*blocks[:-1])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list) and value and all(isinstance(item, float) for item in value):
        return clipped("[" + ", ".join(f"{item:.4g}" for item in value) + "]")
    return f"{value:.4g}" if isinstance(value, float) else clipped(value)
