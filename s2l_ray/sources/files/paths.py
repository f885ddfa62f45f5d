"""Properties of a file that the names in its path express: hidden or not, split, partitions."""

import re
from urllib.parse import unquote

from s2l_ray.sources.files.detect import extension_of

# Parts of the names of files and folders, by split.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "validate", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SPLITS = {name: split for split, names in SPLIT_NAMES.items() for name in names}
# Splits that are kept apart from training.
HELD_BACK = {"validation", "test"}
# The split that is all files.
ALL = "all"
# The value of a partition that stands for null.
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"

_LETTERS = re.compile(r"[a-z]+")


def hidden_part(path: str) -> str | None:
    """The part of a path up to a name that begins with _ or . and is no partition; None if it has none."""
    parts = path.split("/")
    for position, name in enumerate(parts):
        if name.startswith(".") or (name.startswith("_") and "=" not in name):
            return "/".join(parts[: position + 1]) + "/" * (position + 1 < len(parts))
    return None


def split_of(path: str) -> str | None:
    """The split in the first or last part of a name in the path: `test` for `math_test-00001-of-00002.jsonl`."""
    for name in path[: len(path) - len(extension_of(path) or "")].split("/"):
        parts = [part for part in _LETTERS.findall(name.lower()) if part != "of"]
        for part in (*parts[:1], *parts[-1:]):
            if part in SPLITS:
                return SPLITS[part]
    return None


def partitions_of(path: str) -> dict[str, str | None]:
    """Columns in the names of folders: {"lang": "en"} for `lang=en/rows.jsonl`. The null partition is None."""
    pairs = [name.partition("=") for name in path.split("/")[:-1] if "=" in name]
    return {unquote(name): None if value == NULL_PARTITION else unquote(value) for name, _, value in pairs}
