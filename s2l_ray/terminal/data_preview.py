"""The output of `init`: a summary of the rows, and the first examples with their loss mask.

A bar marks each line: thin for context, thick for targets.
"""

import textwrap

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from s2l_ray.config.infer import DataSummary, Sample
from s2l_ray.terminal import humanize
from s2l_ray.terminal.layout import clipped, facts, indented

PREVIEW_LINES = 8
# the end-of-text token, which is a target too
END = " ⏎"


def summary_view(summary: DataSummary, width: int) -> RenderableType:
    """The summary, and the first examples with their loss mask."""
    rejected = sum(summary.rejected.values())
    mapped = ", ".join(f"{name} from {other}" for name, other in summary.fields.items())
    pairs = {
        "rows": f"{summary.rows:,}"
        + ("" if summary.complete else " and more")
        + (f", {rejected:,} rejected" if rejected else ""),
        "rejected": humanize.listed(summary.rejected) or None,
        "format": (summary.format or "differs from row to row") + (f" ({mapped})" if mapped else ""),
        "mask": Text.assemble(("│ context", "dim"), "  ", ("┃ target", "bold green"), "  ⏎ end of text, target"),
        "sources": f"{len(summary.sources)}: {clipped(', '.join(summary.sources), 100)}" if summary.sources else None,
    }
    return indented(facts(pairs), *(_example(number, one, width) for number, one in enumerate(summary.samples, 1)))


def _example(number: int, sample: Sample, width: int) -> RenderableType:
    """The turns of an example, marked as context or target."""
    rows = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column(no_wrap=True)
    rows.add_column(overflow="fold")
    for turn in sample.example.turns:
        learned = turn.role in ("response", "assistant")
        lines = _preview(turn.text + END * learned, min(width - 20, 100))
        style = "bold green" if learned else "dim"
        bar = "\n".join("┃" if learned else "│" for _ in lines)
        rows.add_row(turn.role, Text(bar, style), Text("\n".join(lines), style))
    return Group(Text(f"example {number}, {sample.file} line {sample.line}", "bold"), rows)


def _preview(text: str, width: int) -> list[str]:
    lines = [part for line in text.strip("\n").split("\n") for part in textwrap.wrap(line, width) or [""]]
    if len(lines) <= PREVIEW_LINES:
        return lines
    half = PREVIEW_LINES // 2
    return [*lines[:half], f"… {len(lines) - 2 * half} more lines …", *lines[-half:]]
