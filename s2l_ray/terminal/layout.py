"""The parts that every view is made of: tables without lines, pairs of a name and what is said of it, states in colour.

In: texts and numbers. Out: rich renderables. Nothing is printed here.
"""

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

STATE_STYLES = {"complete": "green", "partial": "yellow", "building": "cyan", "missing": "dim", "damaged": "bold red"}


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A table without lines: dim headings, figures on the right."""
    made = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return made


def facts(pairs: dict[str, RenderableType | None]) -> Table:
    """Names and what is said of them, for those of which something is."""
    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs.items():
        if value is not None:
            made.add_row(name, value)
    return made


def indented(*parts: RenderableType) -> RenderableType:
    """The parts below one another, with a blank line between and a margin."""
    spaced = [item for part in parts for item in (Text(), part)]
    return Padding(Group(*spaced[1:]), (0, 0, 1, 2), expand=False)


def state(name: str) -> Text:
    """A state in its colour."""
    return Text(name, STATE_STYLES.get(name, ""))


def clipped(value: object, most: int = 180) -> str:
    """A value in one line, cut where it is long."""
    text = " ".join(str(value).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
