"""The output at the end of `run`: the result, its sources, timings, rejected rows, and the next commands."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from s2l_ray.artifacts.facts import CheckpointsFacts, DatasetFacts, SubsetFacts, TrajectoriesFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import KINDS_WITH_TEXT
from s2l_ray.pipeline.estimates.actual import ActualStep
from s2l_ray.terminal import estimate_view, humanize
from s2l_ray.terminal.layout import facts, indented, table
from s2l_ray.terminal.store_views import facts_view

Artifacts = dict[str, Artifact]


def run_view(
    artifacts: Artifacts, to: str, built: Sequence[ActualStep], seconds: float, program: str
) -> RenderableType:
    """The end of a run that took `seconds`. built: its stages. program: the name of this command line."""
    result = artifacts[to]
    parts: list[RenderableType] = [_head(result)]
    if to == "subset":
        parts.append(_by_source(_pool(artifacts), result.facts(SubsetFacts).by_source))
    elif to in KINDS_WITH_TEXT:
        parts.append(_sources(result.facts(DatasetFacts).by_source))
    if to != "subset":
        parts.append(facts_view(result))
    parts += [_stages(artifacts, built, seconds), *_rejected(artifacts), _next_commands(result, program)]
    return indented(*parts)


def _head(result: Artifact) -> RenderableType:
    known, counts = result.manifest.facts, result.manifest.counts
    text = f"{counts.kept:,} rows"
    if isinstance(known, SubsetFacts):
        text = f"{counts.kept:,} of {counts.read:,} rows, method {known.method}"
    elif isinstance(known, CheckpointsFacts):
        text = f"{len(known.checkpoints)} checkpoints"
    return Group(Text.assemble((result.manifest.kind, "bold green"), f"  {text}"), Text(result.uri, overflow="fold"))


def _pool(artifacts: Artifacts) -> dict[str, int]:
    """Rows by source from which the method selected: the scored ones where it needs scores."""
    pool = artifacts["dataset"].facts(DatasetFacts).by_source
    if "trajectories" not in artifacts:
        return pool
    scored = artifacts["trajectories"].facts(TrajectoriesFacts).ok_by_source
    return {name: scored.get(name, 0) for name in pool}


def _by_source(pool: dict[str, int], selected: dict[str, int]) -> Table:
    rows = table("source", "pool", "subset", "of pool", right=("pool", "subset", "of pool"))
    for name in sorted(pool, key=lambda name: (-pool[name], name)):
        count = selected.get(name, 0)
        rows.add_row(name, f"{pool[name]:,}", f"{count:,}", _share(count, pool[name]))
    total, count = sum(pool.values()), sum(selected.values())
    rows.add_row("all", f"{total:,}", f"{count:,}", _share(count, total), style="bold")
    return rows


def _sources(pool: dict[str, int]) -> Table:
    rows = table("source", "rows", right=("rows",))
    for name in sorted(pool, key=lambda name: (-pool[name], name)):
        rows.add_row(name, f"{pool[name]:,}")
    return rows


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _stages(artifacts: Artifacts, built: Sequence[ActualStep], seconds: float) -> Table:
    """Time and memory of each stage beside what was planned, where anything was."""
    steps = {one.kind: one for one in built}
    known = any(one.planned_seconds is not None for one in built)
    planned = ("planned", "memory", "planned memory") if known else ()
    rows = table("stage", "time", *planned, "", right=("time", *planned))
    for kind, artifact in artifacts.items():
        took, one = humanize.duration(artifact.manifest.timings["seconds"]), steps.get(kind)
        if one is None:
            rows.add_row(kind, Text(took, "dim"), *("" for _ in planned), Text("complete before", "dim"))
        else:
            memory = humanize.size(one.peak_bytes), humanize.size(one.planned_bytes)
            cells = (estimate_view.seconds(one.planned_seconds), *memory) if known else ()
            rows.add_row(kind, took, *cells, Text("built", "green"))
    rows.add_row("this run", humanize.duration(seconds), *("" for _ in planned), "", style="bold")
    return rows


def _rejected(artifacts: Artifacts) -> list[RenderableType]:
    """Rows that were rejected by prepare, and rows without a trajectory."""
    names = {"dataset": "rejected", "task": "rejected of the task", "trajectories": "not scored"}
    lines = {
        name: humanize.listed(artifacts[kind].manifest.counts.rejected) or None
        for kind, name in names.items()
        if kind in artifacts
    }
    return [facts(lines)] if any(lines.values()) else []


def _next_commands(result: Artifact, program: str) -> RenderableType:
    commands = [f"{program} show {result.uri}"]
    if result.manifest.kind == "subset":
        commands.insert(0, f"{program} export {result.uri} --to subset.jsonl")
    return facts({"next": "\n".join(commands)})
