"""An entry of data.sources, as its readers take it."""

import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from s2l_ray import storage
from s2l_ray.core.data.turns import as_text, nested_value
from s2l_ray.sources.files.detect import extension_of


@dataclass(frozen=True)
class SourceSpec:
    """The rows of one entry of data.sources.

    path: a file or folder. hub: the id of a data set; config, revision, split: which part, at which commit. source:
    {"field": name} or {"name": text}. only: maps a field to the value or values that a row must have.
    """

    path: str | None = None
    hub: str | None = None
    config: str | None = None
    revision: str | None = None
    split: str | None = None
    source: Mapping[str, str] | None = None
    only: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def source_name(self, row: Mapping[str, object]) -> str | None:
        """Source of a row: the value of the field (None if the row lacks it), the configured name, or the stem."""
        if self.source is None:
            return self.stem
        return self.source["name"] if "name" in self.source else self.field_value(row, self.source["field"])

    @staticmethod
    def field_value(row: Mapping[str, object], name: str) -> str | None:
        """The value of a field, whose name may have dots for nested fields, as the name of a source.

        Spaces at both ends are removed; numbers and booleans are written as JSON. None for null, an empty text, and
        for lists and objects.
        """
        text = as_text(nested_value(row, name))
        return text.strip() or None if text is not None else None

    @property
    def columns(self) -> set[str]:
        """The columns that name the source of a row or filter rows."""
        return {name.partition(".")[0] for name in (*(self.source or {}).values(), *self.only)}

    def matches(self, row: Mapping[str, object]) -> bool:
        return all(self.field_value(row, name) in wanted for name, wanted in self.only.items())

    @property
    def stem(self) -> str:
        """The last part of the path or id, without a supported extension."""
        name = posixpath.basename((self.path or self.hub or "").rstrip("/"))
        return name[: len(name) - len(extension_of(name) or "")]


def source_uri(path: str, root: str) -> str:
    """The URI of a path of the job; a relative one starts at `root`."""
    path = os.path.expanduser(path)
    return path if path.startswith("/") or "://" in path else storage.join(os.path.expanduser(root), path)
