"""The output of `report --text`: the values of the page as tables."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from s2l_ray.pipeline.estimates.actual import ActualStep
from s2l_ray.reporting.records.comparisons import Evaluation, Experiment, Methods
from s2l_ray.reporting.records.pool import RowAccount
from s2l_ray.reporting.records.report import Report
from s2l_ray.reporting.records.trajectories import Clusters, Suspicion
from s2l_ray.terminal import estimate_view, humanize
from s2l_ray.terminal.layout import facts, indented, table


def report_view(report: Report) -> RenderableType:
    """The sections of the page in its order."""
    parts = [_summary(report), _account(report.account), _sources(report)]
    if report.experiment is not None:
        parts.insert(0, _experiment(report.experiment))
    if report.proxy is not None:
        parts.append(_proxy(report))
    if report.clusters is not None:
        parts.append(_clusters(report.clusters))
    if report.suspicions:
        parts.append(_suspicions(report.suspicions))
    if report.methods is not None:
        parts.append(_methods(report.methods))
    if report.evaluation is not None:
        parts.append(_evaluation(report.evaluation))
    if report.costs:
        parts.append(_costs(report.costs))
    return indented(*parts, _stages(report))


def _titled(title: str, *parts: RenderableType) -> RenderableType:
    return Group(Text(title, "bold"), *parts)


def _summary(report: Report) -> RenderableType:
    one = report.summary
    selected = f"{humanize.count(one.selected)} of {one.pool:,} rows ({humanize.percent(one.share)})"
    tokens = f"{humanize.count(one.selected_tokens)} of {humanize.count(one.pool_tokens)}"
    pairs = {
        "method": f"{one.method}, budget {one.budget:,} {one.unit}" if one.method and one.budget else None,
        "rows": f"{one.read:,} read = {one.kept:,} kept + {one.rejected:,} rejected",
        "selected": selected if one.selected is not None else None,
        "target tokens": f"{tokens} ({humanize.percent(one.token_share)})",
        "time": humanize.duration(one.seconds) if one.seconds is not None else None,
    }
    return _titled(one.run, facts(pairs))


def _account(account: RowAccount) -> RenderableType:
    shown = table("rejected", "rows", "first", right=("rows",))
    for one in account.rejections:
        first = one.examples[0] if one.examples else None
        shown.add_row(one.reason, f"{one.rows:,}", f"{first.file}:{first.line}" if first else "-")
    pairs = {
        "kept by status": humanize.listed(account.statuses) or None,
        "held out": humanize.listed(account.held_out) or None,
        "unread columns": humanize.listed(account.unread_columns) or None,
        "contaminated": humanize.listed(account.contaminated) or None,
        "warnings": "\n".join(account.warnings) or None,
    }
    return _titled("Rows", shown, facts(pairs))


def _sources(report: Report) -> RenderableType:
    numbers = ("pool", "subset", "of the source", "tokens, pool", "tokens, subset")
    shown = table("source", *numbers, right=numbers)
    for one in report.sources:
        share = humanize.percent(one.selected / one.pool if one.pool else None)
        counts = (humanize.count(number) for number in (one.pool_tokens, one.selected_tokens))
        shown.add_row(Text(one.source), f"{one.pool:,}", f"{one.selected:,}", share, *counts)
    return _titled("Sources", shown)


def _proxy(report: Report) -> RenderableType:
    proxy = report.proxy
    assert proxy is not None
    losses = zip(proxy.held_out_steps, proxy.held_out_loss, strict=True)
    pairs = {
        "training loss": f"{proxy.training_loss[0]:.3f} to {proxy.training_loss[-1]:.3f}",
        "held-out loss": " · ".join(f"{step}: {loss:.3f}" for step, loss in losses) or None,
        "warning": proxy.warning,
    }
    return _titled("Proxy", facts(pairs))


def _clusters(clusters: Clusters) -> RenderableType:
    numbers = ("rows", "selected", "share", "first loss", "last loss")
    shown = table("cluster", "source", "title", *numbers, right=("cluster", *numbers))
    for one in clusters.shown:
        share = humanize.percent(one.selected / one.rows)
        losses = (f"{loss:.3f}" for loss in (one.median[0], one.median[-1])) if one.median else ("-", "-")
        title = Text(", ".join(one.title))
        shown.add_row(
            str(one.cluster), Text(one.source or "all"), title, f"{one.rows:,}", f"{one.selected:,}", share, *losses
        )
    return _titled(f"Clusters: {len(clusters.shown)} of {clusters.total}", shown)


def _suspicions(suspicions: Sequence[Suspicion]) -> RenderableType:
    shown = table("flag", "rows", "selected", "worst row", right=("rows", "selected"))
    for one in suspicions:
        worst = one.worst[0].example_id if one.worst else "-"
        shown.add_row(one.flag, f"{one.rows:,}", f"{one.selected:,}", worst)
    return _titled("Suspicious rows", shown)


def _methods(methods: Methods) -> RenderableType:
    numbers = ("rows", "shared", "overlap", "by chance")
    shown = table("method", *numbers, right=numbers)
    for one in methods.overlaps:
        shares = humanize.percent(one.overlap), humanize.percent(one.by_chance)
        shown.add_row(one.method, f"{one.rows:,}", f"{one.shared:,}", *shares)
    stable = methods.stability
    if stable is None:
        return _titled("Other methods", shown)
    mean, lowest = humanize.percent(stable.mean_overlap), humanize.percent(stable.lowest_overlap)
    return _titled("Other methods", shown, Text(f"between {stable.seeds} seeds: {mean} on average, at least {lowest}"))


def _experiment(experiment: Experiment) -> RenderableType:
    """Every score of every arm, with its paired difference to the reference arm."""
    numbers = ("rows", "mean", "standard error", "difference", "from", "to")
    shown = table("score", "arm", "method", *numbers, right=numbers)
    for name in experiment.scores:
        for arm in experiment.arms:
            if name in arm.scores:
                one = arm.scores[name]
                values = (one.mean, one.error, one.difference, one.low, one.high)
                shown.add_row(name, arm.arm, arm.method, humanize.count(arm.rows), *map(humanize.ratio, values))
    if not experiment.scores:
        for arm in experiment.arms:
            shown.add_row("-", arm.arm, arm.method, humanize.count(arm.rows), *("-" for _ in numbers[1:]))
    verdicts = Text("\n".join(experiment.verdicts.values()))
    return _titled(experiment.run, verdicts, shown, Text(f"The sections below describe {experiment.shown}.", "dim"))


def _evaluation(evaluation: Evaluation) -> RenderableType:
    losses = " · ".join(f"{name} {loss:.4f}" for name, loss in evaluation.loss_by_source.items())
    errors = evaluation.errors
    pairs = {
        "trained on": evaluation.rows,
        "macro loss": humanize.ratio(evaluation.macro_loss),
        "micro loss": humanize.ratio(evaluation.micro_loss),
        "loss by source": losses or None,
        **{name: f"{score:.3f} ± {humanize.ratio(errors[name])}" for name, score in evaluation.tasks.items()},
    }
    return _titled("Evaluation", facts(pairs))


def _costs(costs: Sequence[ActualStep]) -> RenderableType:
    numbers = ("time planned", "time", "memory planned", "memory", "cost planned", "cost")
    shown = table("stage", *numbers, right=numbers)
    for one in costs:
        times = estimate_view.seconds(one.planned_seconds), estimate_view.seconds(one.seconds)
        memory = humanize.size(one.planned_bytes), humanize.size(one.peak_bytes)
        shown.add_row(one.kind, *times, *memory, estimate_view.money(one.planned_money), estimate_view.money(one.money))
    return _titled("Planned and actual", shown)


def _stages(report: Report) -> Table:
    shown = table("artifact", "fingerprint", "rows", "time", "seeds", "finished", right=("rows", "time"))
    for one in report.stages:
        took = humanize.duration(one.seconds) if one.seconds is not None else "-"
        seeds = humanize.listed(one.seeds)
        shown.add_row(one.kind, one.fingerprint, f"{one.rows:,}", took, seeds, one.provenance.get("finished") or "-")
    return shown
