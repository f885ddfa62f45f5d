"""What `plan` shows.

In: a config, its plan and forecast. Out: a renderable for people, plain values for a script.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from s2l_ray.config.sections import Config
from s2l_ray.pipeline.preflight import Forecast
from s2l_ray.terminal import humanize as figures
from s2l_ray.terminal.layout import facts, indented, state, table

if TYPE_CHECKING:
    from s2l_ray.pipeline.run import Plan

REASONS_SHOWN = 4


def plan_view(config: Config, planned: "Plan", figures_known: Forecast) -> RenderableType:
    """Each kind with its state and the reasons for it, then what the job takes."""
    steps = table("kind", "state", "name", "why")
    for step in planned.steps:
        shown = list(step.reasons[:REASONS_SHOWN])
        if len(step.reasons) > REASONS_SHOWN:
            shown.append(f"and {len(step.reasons) - REASONS_SHOWN} more")
        steps.add_row(step.kind, state(step.state), Text(step.fingerprint, "dim"), "\n".join(shown))
    head = Text.assemble((config.run, "bold"), f"  in {config.root}")
    return indented(head, steps, facts(_takes(config, planned, figures_known)))


def plan_values(config: Config, planned: "Plan", known: Forecast) -> dict[str, Any]:
    """The plan for a script."""
    steps = [
        {"kind": one.kind, "fingerprint": one.fingerprint, "uri": one.uri, "state": one.state, "reasons": one.reasons}
        for one in planned.steps
    ]
    select = config.select.model_dump(mode="json")
    return {"run": config.run, "root": config.root, "steps": steps, "select": select, **dataclasses.asdict(known)}


def _takes(config: Config, planned: "Plan", known: Forecast) -> dict[str, RenderableType | None]:
    kinds = {step.kind for step in planned.steps}
    data = config.data
    tokenizer = data.tokenizer if isinstance(data.tokenizer, str) else f"trained, {data.tokenizer.train.vocab_size:,}"
    return {
        "sources": f"{len(data.sources)}, below {data.root}",
        "tokenizer": f"{tokenizer}, rows of at most {data.max_length} tokens",
        "pool": _pool(known),
        "proxy": _proxy(config, known) if "checkpoints" in kinds else None,
        "disk": _disk(known) if "checkpoints" in kinds else None,
        "clusters": f"{config.cluster.k} {_grouping(config)}" if "clusters" in kinds else None,
        "select": _selection(config, known) if "subset" in kinds else None,
    }


def _pool(known: Forecast) -> str:
    if known.rows is not None:
        return f"{known.rows:,} rows, {known.tokens or 0:,} tokens"
    at_most = f"at most {known.rows_at_most:,} rows, " if known.rows_at_most is not None else ""
    return f"{at_most}known once prepared"


def _proxy(config: Config, known: Forecast) -> str:
    model = config.proxy.model
    name = model if isinstance(model, str) else f"{model.get('architecture', 'a model')}, initialised at random"
    parameters = f"about {figures.short(known.parameters)} parameters" if known.parameters else "size not known"
    epochs = figures.plural(config.proxy.epochs, "epoch")
    checkpoints = f"{known.checkpoints} checkpoints" if known.checkpoints else "checkpoints as the pool turns out"
    return f"{name} ({parameters}), {epochs}, {config.proxy.precision}, {checkpoints}"


def _disk(known: Forecast) -> str:
    if known.bytes_needed == 0:
        return "the checkpoints are there"
    needed = "what the checkpoints take is not known yet"
    if known.bytes_needed is not None:
        needed = f"about {figures.size(known.bytes_needed)} for checkpoints and states to resume from"
    return needed + (f"; {figures.size(known.bytes_free)} free" if known.bytes_free is not None else "")


def _grouping(config: Config) -> str:
    return "in each source" if config.cluster.group_by == "source" else "over the whole pool"


def _selection(config: Config, known: Forecast) -> str:
    from s2l_ray.core.selection.registry import SELECTORS

    method, budget = config.select.method, config.select.budget
    rows = f"{known.budget:,} rows" if known.budget is not None else f"{budget} rows"
    if known.budget is None and isinstance(budget, str):
        rows = f"{budget} of the pool"
    elif isinstance(budget, str):
        rows += f" ({budget})"
    return f"{rows} by {method}: {SELECTORS[method].summary}"
