"""The command `s2l export`: rows to a file, or to a folder for a trainer."""

from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.catalog.export.chosen import Choice
from s2l_ray.catalog.export.export import export_for, export_subset
from s2l_ray.terminal import humanize
from s2l_ray.terminal.console import print_message


def export_rows(subset: Artifact, to: str, trainer: str | None, choice: Choice, force: bool) -> None:
    """Write the rows and print what was written."""
    files: list[str] = []
    if trainer is None:
        written = export_subset(subset, to, choice=choice, force=force)
    else:
        written, files = export_for(subset, to, trainer, choice=choice, force=force)
    print_message(f"wrote {written.path}: {written.rows:,} rows, {humanize.size(written.bytes)}")
    for file in files:
        print_message(f"wrote {file}")
    if written.json_fields:
        print_message(f"as JSON text, because Parquet has no type for all values: {', '.join(written.json_fields)}")
