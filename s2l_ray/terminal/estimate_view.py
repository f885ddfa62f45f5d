"""The estimates of `plan`: time, memory, storage and money of each missing stage, and the break-even point."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from s2l_ray.pipeline.costs import Cost
from s2l_ray.pipeline.estimates.job import JobEstimate
from s2l_ray.pipeline.estimates.payback import Payback
from s2l_ray.pipeline.estimates.steps import StepEstimate
from s2l_ray.terminal import humanize
from s2l_ray.terminal.layout import table

NUMBERS = ("rows", "tokens", "FLOPs", "time", "GPU memory", "host memory", "storage", "cost")
# one letter a source, after each figure
LETTERS = {"dataset": "d", "job file": "j", "probe": "p", "shapes": "s"}
MEASURED, COUNTED = "m", "f"


def estimate_view(estimated: JobEstimate) -> RenderableType:
    """One line a stage, the sums, the sources of the figures, and the break-even point."""
    shown = table("stage", *NUMBERS, right=NUMBERS)
    for one in estimated.steps:
        shown.add_row(*_cells(one))
    shown.add_row(*_sum_cells(estimated), style="bold")
    parts: list[RenderableType] = [shown, Text("\n".join(_legend(estimated)), "dim")]
    if estimated.payback is not None:
        parts.append(payback_view(estimated.payback))
    return Group(*(item for part in parts for item in (part, Text())))


def _cells(one: StepEstimate) -> list[str]:
    users = f" x{one.users}" if one.users > 1 else ""
    on_gpu = humanize.size(one.gpu_bytes) + {None: "", True: "", False: " does not fit"}[one.gpu_fits]
    return [
        f"{one.kind}{users}",
        _with_source(humanize.count(one.rows), one, "rows"),
        "-" if one.tokens is None else humanize.short(one.tokens),
        flops(one.flops),
        _with_source(seconds(one.seconds), one, "seconds"),
        f"{on_gpu} s" if one.gpu_bytes is not None else "-",
        _with_source(humanize.size(one.host_bytes), one, "host_bytes"),
        _with_source(humanize.size(one.stored_bytes), one, "stored_bytes"),
        money(one.money),
    ]


def _sum_cells(estimated: JobEstimate) -> list[str]:
    """The sums, with "at least" where a part is not known."""
    took, cost = seconds(estimated.seconds), money(estimated.money)
    if estimated.seconds is None and estimated.known_seconds:
        took = f"at least {seconds(estimated.known_seconds)}"
    if estimated.money is None and estimated.known_money:
        cost = f"at least {money(estimated.known_money)}"
    stored = humanize.size(estimated.stored_bytes)
    if estimated.storage_month is not None:
        stored += f" ({money(estimated.storage_month)} a month)"
    return ["all", "", "", "", took, "", "", stored, cost]


def _legend(estimated: JobEstimate) -> Iterator[str]:
    """The meaning of the letters, and the artifacts or rates that stages are estimated from."""
    yield "d dataset, j job file, p probe, m measured artifact, s shapes of models, f FLOPs, - not known"
    origins: dict[str, list[str]] = {}
    for one in estimated.steps:
        origins.setdefault(one.sources.get("seconds", ""), []).append(one.kind)
    for origin, kinds in origins.items():
        if origin and origin not in LETTERS:
            yield f"{', '.join(dict.fromkeys(kinds))}: {origin}"
    if estimated.ray_seconds:
        yield f"with {seconds(estimated.ray_seconds)} to start Ray"


def payback_view(paid: Payback) -> RenderableType:
    """The costs of a fine-tuning and of the selection, and after how many of the former the latter is paid."""
    shown = table("fine-tuning", "FLOPs", "time", "cost", right=("FLOPs", "time", "cost"))
    rows = {
        f"{paid.model}, on the pool": paid.pool,
        f"on the subset, {paid.compute}": paid.subset,
        "on the subset, same_epochs": paid.same_epochs,
        "selection": paid.selection,
    }
    if paid.compute == "same_epochs":
        del rows["on the subset, same_epochs"]
    for name, cost in rows.items():
        shown.add_row(name, *cost_cells(cost))
    return Group(shown, Text("\n".join(_verdict(paid))))


def _verdict(paid: Payback) -> Sequence[str]:
    """The break-even point in one or two lines."""
    left_out = f", without {', '.join(paid.unpriced)}, whose cost is not known" if paid.unpriced else ""
    if not paid.unit:
        return ["break-even: not known, because a cost above is not known"]
    compared = {"money": "cost", "seconds": "time", "flops": "FLOPs"}[paid.unit]
    if paid.trainings is not None:
        number = humanize.plural(max(1, paid.trainings), "fine-tuning")
        return [f"break-even: the selection has paid for itself after {number} (by {compared}{left_out})"]
    lines = [
        f"warning: the selection never pays for itself: a fine-tuning on the subset with compute: {paid.compute} takes "
        f"as much as one on the pool (by {compared})"
    ]
    if paid.trainings_same_epochs is not None:
        number = humanize.plural(max(1, paid.trainings_same_epochs), "fine-tuning")
        lines.append(f"break-even: with compute: same_epochs after {number} (by {compared}{left_out})")
    return lines


def cost_cells(cost: Cost) -> list[str]:
    return [flops(cost.flops), seconds(cost.seconds), money(cost.money)]


def seconds(number: float | None) -> str:
    return "-" if number is None else humanize.duration(number)


def money(number: float | None) -> str:
    return "-" if number is None else f"{number:,.2f}" if number >= 0.01 or not number else "< 0.01"


def flops(number: float | None) -> str:
    return "-" if number is None else f"{number:.1e}" if number else "0"


def _with_source(text: str, one: StepEstimate, figure: str) -> str:
    origin = one.sources.get(figure, "")
    if text == "-" or not origin:
        return text
    return f"{text} {LETTERS.get(origin, COUNTED if origin.startswith('FLOPs') else MEASURED)}"
