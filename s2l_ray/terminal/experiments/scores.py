"""The scores of an experiment as tables, CSV or Markdown: arms x scores, costs, verdicts."""

import csv
import io
from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from s2l_ray.core.evaluation.statistics import PairedDifference
from s2l_ray.pipeline.costs import Cost
from s2l_ray.pipeline.scores import ArmScores, ExperimentScores, Score
from s2l_ray.pipeline.verdicts import verdicts
from s2l_ray.terminal.layout import indented, table

COSTS = ("FLOPs", "seconds", "cost")


def scores_view(scores: ExperimentScores) -> RenderableType:
    """Two tables, of scores and of costs, the verdicts, and how the intervals were computed."""
    parts: list[RenderableType] = [Text(scores.run, "bold")]
    for headings, rows in (_score_cells(scores), _cost_cells(scores)):
        shown = table(*headings, right=tuple(headings[2:]))
        for row in rows:
            shown.add_row(*row)
        parts.append(shown)
    return indented(*parts, Text("\n".join(verdicts(scores).values())), Text(method(scores), "dim"))


def scores_csv(scores: ExperimentScores) -> str:
    """One line an arm, with all digits and the values of every seed; an empty field is not known."""
    headings = ["arm", "trained on"]
    for name in scores.names:
        seeds = [f"{name} seed {seed}" for seed in scores.seeds]
        headings += [name, f"{name} sd", f"{name} difference", f"{name} low", f"{name} high", *seeds]
    headings += [f"{part} {name}" for part in ("selection", "training") for name in COSTS]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([headings, *map(_values, scores.arms)])
    return file.getvalue()


def scores_markdown(scores: ExperimentScores) -> str:
    parts = [_markdown_table(*cells(scores)) for cells in (_score_cells, _cost_cells)]
    sentences = "".join(f"- {verdict}.\n" for verdict in verdicts(scores).values())
    return "\n".join([*parts, sentences, f"{method(scores)}\n"])


def method(scores: ExperimentScores) -> str:
    """The computation of the means and intervals, and what they hold for."""
    seeds, varied = ", ".join(map(str, scores.seeds)), ", ".join(scores.varied)
    paired = "held-out row and question" if len(scores.seeds) == 1 else "held-out row and question, clustered by seed"
    measured = "these seeds only" if len(scores.seeds) == 1 else "other seeds of these keys, on these rows"
    return (
        f"Mean ± standard deviation over the seeds {seeds} of {varied}. Differences are to {scores.reference}, with "
        f"95 % intervals of Student's t, paired by {paired}: they hold for {measured}. Losses are in nats (lower is "
        "better), tasks in percent (higher is better). Costs are means over the seeds: FLOPs of the models alone, "
        "seconds of the stages; what arms share counts for each of them, and - is not known."
    )


def _score_cells(scores: ExperimentScores) -> tuple[list[str], list[list[str]]]:
    headings = ["arm", "trained on"]
    for name in scores.names:
        headings += [name, f"difference to {scores.reference}"]
    rows = []
    for arm in scores.arms:
        cells = [arm.arm, arm.trained_on]
        for score in arm.scores.values():
            cells += [_mean(score), "" if score.difference is None else _difference(score.difference)]
        rows.append(cells)
    return headings, rows


def _cost_cells(scores: ExperimentScores) -> tuple[list[str], list[list[str]]]:
    headings = ["arm", "trained on", *(f"{part} {name}" for part in ("selection", "training") for name in COSTS)]
    return headings, [[arm.arm, arm.trained_on, *_cost(arm.selection), *_cost(arm.training)] for arm in scores.arms]


def _mean(score: Score) -> str:
    deviation = score.mean.deviation
    return f"{score.mean.mean:.3f}" + (f" ± {deviation:.3f}" if deviation is not None else "")


def _difference(difference: PairedDifference) -> str:
    interval = "" if difference.low is None else f" [{difference.low:+.3f}, {difference.high:+.3f}]"
    return f"{difference.mean:+.3f}{interval}"


def _cost(cost: Cost) -> list[str]:
    flops = "-" if cost.flops is None else f"{cost.flops:.1e}"
    seconds = "-" if cost.seconds is None else f"{cost.seconds:,.0f}"
    return [flops, seconds, "-" if cost.money is None else f"{cost.money:,.2f}"]


def _values(arm: ArmScores) -> list[str | float | None]:
    row: list[str | float | None] = [arm.arm, arm.trained_on]
    for score in arm.scores.values():
        found = score.difference
        row += [score.mean.mean, score.mean.deviation]
        row += [None, None, None] if found is None else [found.mean, found.low, found.high]
        row += score.values.values()
    for cost in (arm.selection, arm.training):
        row += [cost.flops, cost.seconds, cost.money]
    return row


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---", "---", *("---:" for _ in headings[2:])], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
