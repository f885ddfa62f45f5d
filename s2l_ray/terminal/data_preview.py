"""The output of `init`, and of `plan` for a dataset to build: summaries of rows, and examples with their loss mask.

A bar marks each line: thin for context, thick for targets.
"""

import textwrap
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from s2l_ray.config.row_summary import DataSummary, Sample, converted_lines, frequent_rejections
from s2l_ray.core.data.columns import unread_lines
from s2l_ray.core.data.segments import CONTROL, Segments
from s2l_ray.terminal import humanize
from s2l_ray.terminal.layout import clipped, facts, indented

PREVIEW_LINES = 8
# the end-of-text token, which is a target too
END = " ⏎"


def summary_view(summary: DataSummary, width: int) -> RenderableType:
    """The summary, and the first examples with their loss mask."""
    return indented(*_parts(summary, width))


def sources_view(summaries: Sequence[DataSummary], width: int) -> RenderableType:
    """The summary of each source of a job, and its first example."""
    parts: list[RenderableType] = []
    for summary in summaries:
        parts += [Text(f"source {summary.spec.path or summary.spec.hub}", "bold"), *_parts(summary, width, samples=1)]
    return indented(*parts)


def _parts(summary: DataSummary, width: int, samples: int | None = None) -> list[RenderableType]:
    rejected = sum(summary.rejected.values())
    mapped = ", ".join(f"{name} from {other}" for name, other in summary.fields.items())
    counted = {str(name): rows for name, rows in summary.values.items()} if summary.sources else {}
    pairs = {
        "rows": f"{summary.rows:,}"
        + ("" if summary.complete else " and more")
        + (f", {rejected:,} rejected" if rejected else ""),
        "rejected": humanize.listed(summary.rejected) or None,
        "format": (summary.format or "differs from row to row") + (f" ({mapped})" if mapped else ""),
        "not read": "\n".join(unread_lines(summary.unread_columns, len(summary.lengths), summary.format)) or None,
        "chats": _chats(summary),
        "mask": Text.assemble(("│ context", "dim"), "  ", ("┃ target", "bold green"), "  ⏎ end of text, target"),
        "sources": f"{len(counted)}: {clipped(humanize.listed(counted), 200)}" if counted else None,
    }
    shown = enumerate(summary.samples[:samples], 1)
    warnings = [
        *summary.skipped_files,
        *frequent_rejections(summary.rejected, summary.rows),
        *converted_lines(summary.converted),
    ]
    notices = [Text(f"WARNING: {line}", "bold red") for line in warnings]
    return [
        *([Group(*notices)] if notices else []),
        facts(pairs),
        *(_example(number, one, width) for number, one in shown),
    ]


def _chats(summary: DataSummary) -> str | None:
    """Notes about the rendered chats."""
    if not summary.chat:
        return None
    if summary.template is None:
        return "not rendered, because the tokenizer is not a local folder with a chat template; roles are shown instead"
    lines = [f"{summary.rendered:,} rendered"]
    if summary.rewritten:
        lines.append(
            f"{summary.rewritten:,} have answers that later turns change: with data.chat: auto, each answer of this "
            "source becomes an example with its own context"
        )
    if summary.reasoning_lost:
        lines.append(f"{summary.reasoning_lost:,} have reasoning that the template leaves out; it is not learned")
    return "\n".join(lines)


def _example(number: int, sample: Sample, width: int) -> RenderableType:
    """The turns of an example, or its rendered text, marked as context or target."""
    rows = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column(no_wrap=True)
    rows.add_column(overflow="fold")
    lines: list[tuple[str, str, bool]] = [
        (turn.role, turn.display() + END * turn.learned, turn.learned) for turn in sample.example.turns
    ]
    if sample.text is not None:
        lines = list(_rendered(sample.text.texts[-1]))
    for name, text, learned in lines:
        wrapped = _preview(text, min(width - 20, 100))
        style = "bold green" if learned else "dim"
        bar = "\n".join("┃" if learned else "│" for _ in wrapped)
        rows.add_row(name, Text(bar, style), Text("\n".join(wrapped), style))
    return Group(Text(f"example {number}, {sample.file} line {sample.line}", "bold"), rows)


def _rendered(segments: Segments) -> Iterator[tuple[str, str, bool]]:
    for segment in segments:
        name = "target" if segment.learned else "context"
        yield name, segment.text.replace(CONTROL, "") + END * segment.append_end, segment.learned


def _preview(text: str, width: int) -> list[str]:
    lines = [part for line in text.strip("\n").split("\n") for part in textwrap.wrap(line, width) or [""]]
    if len(lines) <= PREVIEW_LINES:
        return lines
    half = PREVIEW_LINES // 2
    return [*lines[:half], f"… {len(lines) - 2 * half} more lines …", *lines[-half:]]
