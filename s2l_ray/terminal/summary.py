"""What a run says at its end: where the result is, what it took, how long it was, what comes next.

In: the plan that was carried out, and which of its artefacts this run built. Out: rich renderables.
"""

from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.terminal import humanize as figures
from s2l_ray.terminal.layout import facts, indented, table

if TYPE_CHECKING:
    from s2l_ray.pipeline.run import Plan

FACTS = {
    "dataset": ("tokens", "target_tokens", "truncated", "shards"),
    "checkpoints": ("steps", "training_loss_first", "training_loss_last", "held_out_loss_first", "held_out_loss_last"),
    "trajectories": ("steps", "statistics", "scoring_paths"),
    "clusters": ("clusters", "empty_clusters", "inertia", "group_by"),
}
"""What is worth a line at the end of `--to KIND`, by kind."""


def run_view(planned: "Plan", to: str, built: set[str], seconds: float, program: str) -> RenderableType:
    """The end of a run.

    built: the kinds it built. seconds: what it took in all. program: how it is called, for the commands that come next.
    """
    artifacts = {step.kind: open_artifact(step.uri) for step in planned.steps}
    result = artifacts[to]
    parts: list[RenderableType] = [_head(result)]
    if to == "subset":
        parts.append(_by_source(_pool(artifacts), result))
    elif to == "dataset":
        parts.append(_sources(result))
    if to != "subset":
        parts.append(
            facts({name: _said(result.manifest.facts[name]) for name in FACTS[to] if name in result.manifest.facts})
        )
    parts += [_stages(artifacts, built, seconds), *_set_aside(artifacts), _next(result, program)]
    return indented(*parts)


def _head(result: Artifact) -> RenderableType:
    kind, counts, known = result.manifest.kind, result.manifest.counts, result.manifest.facts
    words = f"{counts.get('kept', 0):,} rows"
    if kind == "subset":
        words = f"{counts['kept']:,} of {counts['read']:,} rows, by {known['method']}"
    elif kind == "checkpoints":
        words = f"{len(known['steps'])} of them"
    return Group(Text.assemble((kind, "bold green"), f"  {words}"), Text(result.uri, overflow="fold"))


def _pool(artifacts: dict[str, Artifact]) -> dict[str, int]:
    """Rows by source that the selector chose from: the scored ones, where the method needs scores."""
    pool: dict[str, int] = artifacts["dataset"].manifest.facts["by_source"]
    if "trajectories" not in artifacts:
        return pool
    scored = artifacts["trajectories"].manifest.facts.get("ok_by_source", pool)
    return {name: scored.get(name, 0) for name in pool}


def _by_source(pool: dict[str, int], subset: Artifact) -> Table:
    taken: dict[str, int] = subset.manifest.facts["by_source"]
    made = table("source", "pool", "subset", "of pool", right=("pool", "subset", "of pool"))
    for name in sorted(pool, key=lambda name: (-pool[name], name)):
        made.add_row(name, f"{pool[name]:,}", f"{taken.get(name, 0):,}", _share(taken.get(name, 0), pool[name]))
    total, picked = sum(pool.values()), sum(taken.values())
    made.add_row("all", f"{total:,}", f"{picked:,}", _share(picked, total), style="bold")
    return made


def _sources(dataset: Artifact) -> Table:
    made = table("source", "rows", right=("rows",))
    pool: dict[str, int] = dataset.manifest.facts["by_source"]
    for name in sorted(pool, key=lambda name: (-pool[name], name)):
        made.add_row(name, f"{pool[name]:,}")
    return made


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _stages(artifacts: dict[str, Artifact], built: set[str], seconds: float) -> Table:
    made = table("stage", "time", "", right=("time",))
    for kind, artifact in artifacts.items():
        took = figures.duration(artifact.manifest.timings["seconds"])
        if kind in built:
            made.add_row(kind, took, Text("built", "green"))
        else:
            made.add_row(kind, Text(took, "dim"), Text("found ready", "dim"))
    made.add_row("this run", figures.duration(seconds), "", style="bold")
    return made


def _set_aside(artifacts: dict[str, Artifact]) -> list[RenderableType]:
    """Rows that went no further, by the stage that set them aside; later stages name the same rows once more."""
    lines: dict[str, RenderableType | None] = {}
    for kind in ("dataset", "trajectories"):
        aside = artifacts[kind].manifest.counts.get("set_aside", {}) if kind in artifacts else {}
        if aside:
            lines["set aside" if kind == "dataset" else "not scored"] = figures.listed(aside)
    return [facts(lines)] if lines else []


def _next(result: Artifact, program: str) -> RenderableType:
    commands = [f"{program} show {result.uri}"]
    if result.manifest.kind == "subset":
        commands.insert(0, f"{program} export {result.uri} --to subset.jsonl")
    return facts({"next": Text("\n".join(commands), overflow="fold")})


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return figures.listed(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
