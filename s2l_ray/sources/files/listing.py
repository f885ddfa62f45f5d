"""The files of a source that are read, in order, and those that are skipped."""

import json
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass

from s2l_ray import storage
from s2l_ray.errors import ConfigError
from s2l_ray.sources.files.detect import EXTENSIONS, extension_of
from s2l_ray.sources.rows import SourceError
from s2l_ray.sources.spec import SourceSpec, source_uri

# describes the files of a folder to a trainer
REGISTRY = "dataset_info.json"
# Skipped files that are named; others are counted.
NAMED = 8


@dataclass(frozen=True)
class SourceFiles:
    """Files of a source in order, as (URI, name in messages, entry). arrow: whether `datasets` saved them.

    skipped: names of the other files of a folder.
    """

    files: tuple[tuple[str, str, storage.Entry], ...]
    arrow: bool = False
    skipped: tuple[str, ...] = ()


def find_source_files(spec: SourceSpec, root: str) -> SourceFiles:
    """Find the files of a source with a path; a relative path starts at `root`.

    Raises `ConfigError` if there is no supported file.
    """
    assert spec.path is not None
    uri = source_uri(spec.path, root)
    file = storage.find(uri)
    if file is not None:
        if extension_of(spec.path) is None:
            raise ConfigError(f"source {spec.path}: unknown extension; supported are {' '.join(EXTENSIONS)}")
        return SourceFiles(((uri, spec.path, file),))
    if not storage.exists(uri):
        raise ConfigError(f"source {spec.path}: {uri} does not exist; correct its path, or data.root")
    entries = {entry.path: entry for entry in storage.list_files(uri)}
    saved = _saved_by_datasets(spec, uri, set(entries))
    names = saved or [name for name in entries if extension_of(name) and not _is_hidden(name)]
    if not names:
        found = f"; found {', '.join(list(entries)[:5])}" if entries else ""
        raise ConfigError(f"source {spec.path}: no file with the extension {' '.join(EXTENSIONS)}{found}")
    files = ((storage.join(uri, name), f"{spec.path.rstrip('/')}/{name}", entries[name]) for name in names)
    return SourceFiles(tuple(files), bool(saved), () if saved else tuple(sorted(set(entries).difference(names))))


def _is_hidden(name: str) -> bool:
    """Whether a file is not data: `_SUCCESS`, `_temporary/...`, or the registry of a trainer."""
    return any(part.startswith("_") for part in name.split("/")) or posixpath.basename(name) == REGISTRY


def skipped_files(spec: SourceSpec, root: str) -> Iterator[str]:
    """A line for the files of a folder with an extension that is not read, and one for those that are not data."""
    skipped = find_source_files(spec, root).skipped if spec.path is not None else ()
    groups = {
        "because of their extensions": [name for name in skipped if not _is_hidden(name)],
        f"because their names begin with _ or are {REGISTRY}": [name for name in skipped if _is_hidden(name)],
    }
    for reason, names in groups.items():
        if names:
            yield f"files not read {reason} ({len(names)}): {', '.join(names[:NAMED])}{', ...' * (len(names) > NAMED)}"


def _saved_by_datasets(spec: SourceSpec, uri: str, names: set[str]) -> list[str]:
    """Names of the Arrow files of a folder that `datasets` saved, in its order; empty for another folder."""
    folder = ""
    if spec.split is not None and "dataset_dict.json" not in names:
        raise ConfigError(f"source {spec.path}: has no splits; remove split: {spec.split}")
    if "dataset_dict.json" in names:
        splits = json.loads(storage.read_bytes(storage.join(uri, "dataset_dict.json")))["splits"]
        if spec.split not in splits:
            raise ConfigError(f"source {spec.path}: has the splits {', '.join(splits)}; set split: to one of them")
        folder = f"{spec.split}/"
    if not {f"{folder}state.json", f"{folder}dataset_info.json"} <= names:
        return []
    state = json.loads(storage.read_bytes(storage.join(uri, f"{folder}state.json")))
    files = [f"{folder}{one['filename']}" for one in state["_data_files"]]
    for missing in set(files) - names:
        raise SourceError(f"{spec.path}: {missing} is missing; save the data set again")
    return files
