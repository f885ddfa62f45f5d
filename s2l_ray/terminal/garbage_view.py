"""What `gc` shows: what may go below a root, and what went.

In: garbage. Out: renderables, and plain values for a script.
"""

import dataclasses
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from s2l_ray.catalog.gc import Garbage
from s2l_ray.terminal import humanize as figures
from s2l_ray.terminal.layout import indented, table


def garbage_view(root: str, found: list[Garbage]) -> RenderableType:
    """One line for each thing, places as they lie below the root."""
    shown = table("place", "why", "files", "size", "changed", right=("files", "size"))
    for one in found:
        place = one.uri.removeprefix(f"{root.rstrip('/')}/")
        if one.paths:
            place += f": {one.paths[0]}" + (f" and {len(one.paths) - 1:,} more" if len(one.paths) > 1 else "")
        shown.add_row(place, one.why, figures.count(one.files), figures.size(one.bytes), figures.age(one.changed))
    return indented(shown, Text(total(found), "dim"))


def total(found: list[Garbage]) -> str:
    """How much it is."""
    files, size = sum(one.files for one in found), sum(one.bytes for one in found)
    return f"{figures.plural(files, 'file')}, {figures.size(size)}"


def garbage_values(found: list[Garbage], removed: list[Garbage]) -> dict[str, Any]:
    """The same for a script."""
    return {
        "found": [dataclasses.asdict(one) for one in found],
        "removed": [one.uri for one in removed],
        "bytes": sum(one.bytes for one in found),
    }
