"""Building blocks of the views: tables, name-value pairs, states in color. Nothing is printed here."""

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

STATE_STYLES = {
    "complete": "green",
    "partial": "yellow",
    "building": "cyan",
    "missing": "dim",
    "unresolved": "yellow",
    "damaged": "bold red",
}


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A table without lines, with dim headings; the columns in `right` are aligned right."""
    made = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return made


Pairs = Mapping[str, RenderableType | None]


def facts(pairs: Pairs) -> Table:
    """Name-value pairs, without those whose value is None. Brackets in strings are no markup."""
    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs.items():
        if value is not None:
            made.add_row(name, Text(value) if isinstance(value, str) else value)
    return made


def indented(*parts: RenderableType) -> RenderableType:
    """The parts below one another, separated by blank lines, with a margin."""
    spaced = [item for part in parts for item in (Text(), part)]
    return Padding(Group(*spaced[1:]), (0, 0, 1, 2), expand=False)


def state(name: str) -> Text:
    return Text(name, STATE_STYLES.get(name, ""))


def clipped(value: object, most: int = 180) -> str:
    """A value on one line, cut at `most` characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
