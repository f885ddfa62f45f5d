"""The output of `plan`: a renderable, and plain values for scripts."""

import dataclasses
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from s2l_ray.config.budget import budget_amount, budget_unit
from s2l_ray.config.row_summary import DataSummary
from s2l_ray.config.sections import Config, Data
from s2l_ray.core.selection.registry import SELECTORS
from s2l_ray.pipeline.estimates.job import JobEstimate
from s2l_ray.pipeline.plan import Plan, PlannedStep, plan_to_json
from s2l_ray.pipeline.preflight import Estimate
from s2l_ray.stages.evaluate.evaluate import skipped_metrics
from s2l_ray.terminal import humanize
from s2l_ray.terminal.console import stdout_console
from s2l_ray.terminal.data_preview import sources_view
from s2l_ray.terminal.estimate_view import estimate_view
from s2l_ray.terminal.layout import Pairs, facts, indented, state, table

REASONS_SHOWN = 4
JSON_VERSION = 1


def plan_view(
    planned: Plan, figures: Estimate, summaries: Sequence[DataSummary], estimated: JobEstimate
) -> RenderableType:
    """Each kind with its state and the reasons for it, the summaries of sources, and the estimates."""
    steps = table("kind", "state", "fingerprint", "reason")
    for step in planned.steps:
        steps.add_row(step.kind, state(step.state), Text(step.fingerprint, "dim"), "\n".join(_reasons(step)))
    head = Text.assemble((planned.config.run, "bold"), f"  in {planned.config.root}")
    parts = [indented(head, steps, facts(_estimates(planned, figures)))]
    parts += [sources_view(summaries, stdout_console().width)] if summaries else []
    return Group(*parts, *([indented(estimate_view(estimated))] if planned.missing else []))


def plan_values(
    planned: Plan, figures: Estimate, summaries: Sequence[DataSummary], estimated: JobEstimate
) -> dict[str, object]:
    config = planned.config
    select = config.select.model_dump(mode="json")
    values = {"run": config.run, "root": config.root, "steps": plan_to_json(planned), "select": select}
    costs = {"version": JSON_VERSION, "estimate": dataclasses.asdict(estimated)}
    sources = [summary.counts() for summary in summaries]
    return {**costs, **values, **dataclasses.asdict(figures), "sources": sources}


def _reasons(step: PlannedStep) -> list[str]:
    reasons = [*(["--rebuild"] if step.rebuild else []), *step.reasons]
    more = len(reasons) - REASONS_SHOWN
    return [*reasons[:REASONS_SHOWN], *([f"and {more} more"] if more > 0 else [])]


def _estimates(planned: Plan, figures: Estimate) -> Pairs:
    config, data = planned.config, planned.config.data
    grouping = "in each source" if config.cluster.group_by == "source" else "over the whole pool"
    losses = config.score.losses_from
    return {
        "sources": f"{len(data.sources)}, below {data.root}" if data.sources else "row numbers of score.losses_from",
        "tokenizer": _tokenizer(data),
        "losses": f"{losses.values} from {losses.path}" if losses is not None else None,
        "pool": _pool(figures),
        "proxy": _proxy(config, figures) if "checkpoints" in planned else None,
        "disk": _disk(figures) if "checkpoints" in planned else None,
        "embeddings": _embeddings(config) if "embeddings" in planned else None,
        "clusters": f"{config.cluster.k} {grouping}, of {config.cluster.features}" if "clusters" in planned else None,
        "select": _selection(config, figures) if "subset" in planned else None,
        "evaluation": _evaluation(config) if "evaluation" in planned else None,
    }


def _tokenizer(data: Data) -> str | None:
    if data.tokenizer is None:
        return None
    name = data.tokenizer if isinstance(data.tokenizer, str) else f"trained, {data.tokenizer.train.vocab_size:,}"
    return f"{name}, rows of at most {data.max_length} tokens"


def _embeddings(config: Config) -> str:
    embed = config.embed
    return f"{embed.model}, {embed.text}, at most {embed.max_length} tokens"


def _pool(figures: Estimate) -> str:
    if figures.rows is not None:
        return f"{figures.rows:,} rows" + (f", {figures.tokens:,} tokens" if figures.tokens else "")
    at_most = f"at most {figures.max_rows:,} rows, " if figures.max_rows is not None else ""
    return f"{at_most}known once prepared"


def _proxy(config: Config, figures: Estimate) -> str:
    if config.proxy.checkpoints_from is not None:
        return f"{figures.checkpoints} imported checkpoints"
    model = config.proxy.model
    name = f"{model.get('architecture', 'a model')}, randomly initialized" if isinstance(model, dict) else model
    parameters = f"about {humanize.short(figures.parameters)} parameters" if figures.parameters else "size unknown"
    epochs = humanize.plural(config.proxy.epochs, "epoch")
    checkpoints = f"{figures.checkpoints} checkpoints" if figures.checkpoints else "checkpoints depend on the pool"
    return f"{name} ({parameters}), {epochs}, {config.proxy.precision}, {checkpoints}"


def _disk(figures: Estimate) -> str:
    if figures.bytes_needed == 0:
        return "the checkpoints are complete"
    needed = "unknown size of the checkpoints"
    if figures.bytes_needed is not None:
        needed = f"about {humanize.size(figures.bytes_needed)} for checkpoints and resume states"
    return needed + (f"; {humanize.size(figures.bytes_free)} free" if figures.bytes_free is not None else "")


def _evaluation(config: Config) -> str:
    """Losses and tasks; the metrics that are skipped, with the reasons."""
    evaluate = config.evaluate
    questions = f" (the first {evaluate.limit:,} questions)" if evaluate.limit is not None else ""
    parts = ["held-out loss"] if evaluate.loss else []
    parts += [f"{one.name}{questions}" for one in evaluate.tasks]
    skipped = [reason for one in evaluate.tasks for reason in skipped_metrics(config, one).values()]
    return "\n".join([", ".join(parts), *dict.fromkeys(skipped)])


def _selection(config: Config, figures: Estimate) -> str:
    method, budget = config.select.method, config.select.budget
    if isinstance(budget, int):
        rows = f"{budget:,} rows"
    elif isinstance(budget, dict):
        rows = f"{budget_amount(budget, 0):,} {budget_unit(budget).replace('_', ' ')}"
    else:
        rows = f"{budget} of the pool" if figures.budget is None else f"{figures.budget:,} rows ({budget})"
    return f"{rows} by {method}: {SELECTORS[method].summary}"
