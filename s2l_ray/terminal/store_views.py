"""The output of the commands on stored artifacts: `ls`, `show`, `gc` and `verify`."""

import dataclasses
import re
from typing import Any

import pyarrow as pa
from rich.console import Group, RenderableType
from rich.text import Text

from s2l_ray.artifacts.execution import Execution
from s2l_ray.artifacts.facts import EvaluationFacts
from s2l_ray.artifacts.manifest import Artifact, Manifest
from s2l_ray.artifacts.tables import FileRecord
from s2l_ray.catalog.gc import Garbage
from s2l_ray.catalog.listing import COMPLETE, REPLACED, ArtifactInfo, Listing
from s2l_ray.catalog.verify import Fault, Verified
from s2l_ray.catalog.weights import ScoredWeights
from s2l_ray.terminal import humanize
from s2l_ray.terminal.layout import Pairs, clipped, facts, indented, state, table

# rows of at most this many characters are shown as a table, others as blocks with a line per column
SHORT_ROW = 110

Values = dict[str, Any]


def listing_view(listing: Listing) -> RenderableType:
    """Artifacts by kind, newest first, then the runs."""
    artifacts = table(
        "kind", "fingerprint", "state", "rows", "files", "size", "changed", "runs", right=("rows", "files", "size")
    )
    for info in listing.artifacts:
        artifacts.add_row(
            info.kind,
            info.fingerprint,
            state(info.state) + Text(f" ({info.problem})" if info.problem else "", "dim"),
            humanize.count(info.rows),
            humanize.count(info.files),
            humanize.size(info.bytes),
            humanize.age(info.changed),
            ", ".join(info.runs) or Text("none", "dim"),
        )
    runs = table("run", "started", "last", "artifacts", right=("started",))
    states = {info.fingerprint: info.state for info in listing.artifacts}
    for run in listing.runs:
        complete = sum(states.get(fingerprint) == COMPLETE for fingerprint in run.fingerprints.values())
        text = Text(run.problem, "red") if run.problem else f"{complete} of {len(run.fingerprints)} complete"
        runs.add_row(run.name, humanize.plural(run.entries, "time"), humanize.age(run.last), text)
    end = humanize.amount(len(listing.artifacts), "artifact", sum(info.bytes for info in listing.artifacts))
    if listing.replaced_bytes:
        replaced = humanize.size(listing.replaced_bytes)
        end += f"; {replaced} replaced by --rebuild, in {listing.root}/{REPLACED} (deleted by gc)"
    return indented(artifacts, runs, Text(end, "dim"))


def artifact_view(artifact: Artifact, first: pa.Table | None) -> RenderableType:
    manifest, counts, dropped = artifact.manifest, artifact.manifest.counts, len(artifact.dropped)
    head = _head(
        manifest,
        artifact.uri,
        {
            "made from": "\n".join(f"{kind} {name}" for kind, name in manifest.inputs.items()) or None,
            "rows": f"{counts.kept:,} kept of {counts.read:,}" if counts.read else None,
            "rejected": humanize.listed(counts.rejected) or None,
            "took": humanize.duration(manifest.timings["seconds"]) if "seconds" in manifest.timings else None,
            "finished": _finished(manifest.provenance),
            "deleted": f"{humanize.plural(dropped, 'weight file')} (gc --weights)" if dropped else None,
        },
    )
    known = dataclasses.asdict(manifest.facts)
    sections = {"identity": manifest.identity, "execution": dataclasses.asdict(manifest.execution)}
    parts: list[RenderableType] = [*head, _files(artifact.present()), facts_view(artifact)]
    parts += [_section(name, values) for name, values in sections.items() if values]
    parts += [_records(name, list(value), right=True) for name, value in known.items() if _are_records(value)]
    if first is not None and len(first):
        parts.append(_first_rows(first))
    return indented(*parts)


def facts_view(artifact: Artifact) -> RenderableType:
    """The facts of an artifact, without its lists of records."""
    if isinstance(artifact.manifest.facts, EvaluationFacts):
        return evaluation_view(artifact.manifest.facts)
    return _section("facts", dataclasses.asdict(artifact.manifest.facts))


def evaluation_view(known: EvaluationFacts) -> RenderableType:
    """Held-out losses by source with their two means, and the score of each task with its standard error."""
    losses = table("held-out loss", "rows", "nats", right=("rows", "nats"))
    for source, loss in known.loss_by_source.items():
        losses.add_row(source, f"{known.rows_by_source[source]:,}", f"{loss:.4f}")
    if known.macro_loss is not None and known.micro_loss is not None:
        losses.add_row("mean of sources (macro)", "", f"{known.macro_loss:.4f}", style="bold")
        losses.add_row("mean of rows (micro)", f"{sum(known.rows_by_source.values()):,}", f"{known.micro_loss:.4f}")
    names = ("questions", "score", "no answer", "tokens of an output")
    tasks = table("task", *names, "other metrics", right=names)
    for name, one in known.tasks.items():
        score = f"{one.score:.1f}" + (f" ± {one.error:.1f}" if one.error is not None else "")
        others = " · ".join(f"{metric} {value:.1f}" for metric, value in one.metrics.items())
        no_answer = humanize.percent(one.no_answer)
        tasks.add_row(name, f"{one.questions:,}", score, no_answer, f"{one.output_tokens:.1f}", others)
    shown: list[RenderableType] = [losses] if known.loss_by_source else []
    shown += [Text(), tasks] if known.tasks else []
    return Group(*shown)


def incomplete_view(info: ArtifactInfo, execution: Execution | None) -> RenderableType:
    head = _head(
        info,
        info.uri,
        {
            "state": state(info.state) + Text(f" {info.problem}" if info.problem else "", "dim"),
            "files": humanize.amount(info.files, "file", info.bytes),
            "changed": humanize.age(info.changed),
        },
    )
    return indented(*head, *([_section("execution", dataclasses.asdict(execution))] if execution else []))


def garbage_view(root: str, found: list[Garbage]) -> RenderableType:
    """One line for each collectable item, with its path below the root."""
    shown = table("path", "reason", "files", "size", "changed", right=("files", "size"))
    for one in found:
        path = one.uri.removeprefix(f"{root.rstrip('/')}/")
        if one.paths:
            path += f": {one.paths[0]}" + (f" and {len(one.paths) - 1:,} more" if len(one.paths) > 1 else "")
        shown.add_row(path, one.why, humanize.count(one.files), humanize.size(one.bytes), humanize.age(one.changed))
    return indented(shown, Text(garbage_total(found), "dim"))


def garbage_total(found: list[Garbage]) -> str:
    return humanize.amount(sum(one.files for one in found), "file", sum(one.bytes for one in found))


def weights_view(root: str, found: list[ScoredWeights]) -> RenderableType:
    """One line for each checkpoints artifact, with the reason if its weights are kept."""
    shown = table("checkpoints", "files", "size", "kept because", right=("files", "size"))
    for one in found:
        path = one.uri.removeprefix(f"{root.rstrip('/')}/")
        shown.add_row(path, humanize.count(len(one.paths)), humanize.size(one.bytes), one.kept_for)
    return indented(shown)


def weights_total(found: list[ScoredWeights]) -> str:
    return humanize.amount(sum(len(one.paths) for one in found), "weight file", sum(one.bytes for one in found))


def verified_view(one: Verified) -> RenderableType:
    """A line for the artifact, and one for each fault."""
    size = humanize.amount(one.files, "file", one.bytes)
    if not one.faults:
        return Text.assemble(("✓ ", "green"), one.uri, (f"  {size}", "dim"))
    head = Text.assemble(("✗ ", "bold red"), one.uri, (f"  {size}, {humanize.plural(len(one.faults), 'fault')}", "dim"))
    return Group(head, *(Text(f"    {fault.path}: {_problem(one, fault)}", "red") for fault in one.faults))


def _problem(one: Verified, fault: Fault) -> str:
    return fault.problem.removeprefix(f"{one.uri}/{fault.path}: ").removeprefix(f"{one.uri}: ")


def verdict(verified: list[Verified]) -> str:
    """The result on one line, with the command that rebuilds damaged artifacts."""
    files = humanize.plural(sum(one.files for one in verified), "file")
    faults = sum(len(one.faults) for one in verified)
    if not faults:
        return f"{files} verified, no differences"
    damaged = [one for one in verified if one.complete and any(not fault.left_over for fault in one.faults)]
    hint = ", ".join(f"--rebuild {kind}" for kind in dict.fromkeys(one.uri.rsplit("/", 2)[-2] for one in damaged))
    return f"{files} verified, {humanize.plural(faults, 'fault')}" + (f"; s2l run JOB {hint}" if hint else "")


def _head(named: Manifest | ArtifactInfo, uri: str, pairs: Pairs) -> list[RenderableType]:
    """The title of an artifact, and its URI above the pairs."""
    title = Text.assemble((named.kind, "bold"), f" {named.fingerprint}")
    return [title, facts({"uri": uri, **pairs})]


def _finished(provenance: dict[str, str | None]) -> str | None:
    if "finished" not in provenance:
        return None
    return f"{provenance['finished']} on {provenance.get('host')}, by `{provenance.get('command')}`"


def _files(files: list[FileRecord]) -> RenderableType:
    """One line for all files whose names differ only in numbers."""
    groups: dict[str, list[FileRecord]] = {}
    for record in files:
        groups.setdefault(re.sub(r"\d+", "*", record.path), []).append(record)
    shown = table("files", "", "rows", "size", right=("", "rows", "size"))
    for pattern, records in groups.items():
        rows = sum(record.rows or 0 for record in records) if records[0].rows is not None else None
        name = records[0].path if len(records) == 1 else pattern
        size = humanize.size(sum(record.bytes for record in records))
        shown.add_row(name, f"{len(records):,}", humanize.count(rows), size)
    return shown


def _section(name: str, values: Values) -> RenderableType:
    return Group(Text(name, "bold"), facts(_flat(values)))


def _flat(values: Values, prefix: str = "") -> dict[str, str]:
    """Dotted keys with short texts; counts by name on one line; lists of records are shown separately."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value and all(isinstance(inner, int) for inner in value.values()):
            flat[f"{prefix}{key}"] = clipped(humanize.listed(value))
        elif isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        elif not _are_records(value):
            flat[f"{prefix}{key}"] = _cell(value)
    return flat


def _are_records(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, dict) for item in value)


def _records(name: str, records: list[Values], right: bool = False) -> RenderableType:
    names = tuple(dict.fromkeys(key for record in records for key in record))
    shown = table(*names, right=names if right else ())
    for record in records:
        shown.add_row(*(Text(_cell(record.get(key))) for key in names))
    return Group(Text(name, "bold"), shown)


def _first_rows(first: pa.Table) -> RenderableType:
    rows = [{name: _cell(value) for name, value in row.items()} for row in first.to_pylist()]
    if max(sum(len(value) + 2 for value in row.values()) for row in rows) <= SHORT_ROW:
        return _records("first rows", rows)
    blocks = [block for row in rows for block in (facts(row), Text())]
    return Group(Text("first rows", "bold"), *blocks[:-1])


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, list) and value and all(isinstance(item, float) for item in value):
        return clipped("[" + ", ".join(f"{item:.4g}" for item in value) + "]")
    return f"{value:.4g}" if isinstance(value, float) else clipped(value)
