"""What `init` shows: what the rows are, and the first examples with their mask.

In: a look at the rows. Out: a renderable, in which a bar stands before each line: thin for what is given to the
model, thick for what it learns.
"""

import textwrap

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from s2l_ray.config.infer import DataSummary, Sample
from s2l_ray.terminal import humanize as figures
from s2l_ray.terminal.layout import clipped, facts, indented

PREVIEW_LINES = 8
END = " ⏎"
"""Stands for the token that ends an answer, which is learned too."""


def look_view(summary: DataSummary, width: int) -> RenderableType:
    """What `init` found, and the first examples with their mask."""
    rejected = sum(summary.rejected.values())
    mapped = ", ".join(f"{name} from {other}" for name, other in summary.fields.items())
    pairs: dict[str, RenderableType | None] = {
        "rows": f"{summary.rows:,}"
        + ("" if summary.complete else " and more")
        + (f", {rejected:,} no examples" if rejected else ""),
        "no examples": figures.listed(summary.rejected) or None,
        "format": (summary.format or "differs from row to row") + (f" ({mapped})" if mapped else ""),
        "mask": Text.assemble(("│ given", "dim"), "  ", ("┃ learned", "bold green"), "  ⏎ end of text, learned"),
        "sources": f"{len(summary.sources)}: {clipped(', '.join(summary.sources), 100)}" if summary.sources else None,
    }
    return indented(facts(pairs), *(_example(number, one, width) for number, one in enumerate(summary.samples, 1)))


def _example(number: int, sample: Sample, width: int) -> RenderableType:
    """Turn by turn: what is given to the model, and what it learns to answer."""
    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for turn in sample.example.turns:
        learned = turn.role in ("response", "assistant")
        lines = _preview(turn.text + END * learned, min(width - 20, 100))
        style = "bold green" if learned else "dim"
        bar = "\n".join("┃" if learned else "│" for _ in lines)
        made.add_row(turn.role, Text(bar, style), Text("\n".join(lines), style))
    return Group(Text(f"example {number}, {sample.file} line {sample.line}", "bold"), made)


def _preview(text: str, width: int) -> list[str]:
    lines = [part for line in text.strip("\n").split("\n") for part in textwrap.wrap(line, width) or [""]]
    if len(lines) <= PREVIEW_LINES:
        return lines
    half = PREVIEW_LINES // 2
    return [*lines[:half], f"… {len(lines) - 2 * half} more lines …", *lines[-half:]]
