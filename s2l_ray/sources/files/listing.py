"""The files of a source that are read, in order, and those that are skipped.

Of a folder, names that begin with _ or . are not data (Hadoop's rule), except partitions such as `_lang=en`.
"""

import json
import posixpath
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from s2l_ray import storage
from s2l_ray.errors import ConfigError
from s2l_ray.sources.files.detect import EXTENSIONS, extension_of
from s2l_ray.sources.files.paths import ALL, HELD_BACK, hidden_part, partitions_of, split_of
from s2l_ray.sources.rows import SourceError
from s2l_ray.sources.spec import SourceSpec, source_uri

# Describes the files of a folder to a trainer, or to older versions of `datasets`.
REGISTRY, REGISTRIES = "dataset_info.json", ("dataset_info.json", "dataset_infos.json")
# Reasons for which files of a folder are not read.
UNSUPPORTED = "because of their extensions"
OTHER_SPLIT = "because they are of other splits"
NOT_DATA = f"because their names begin with _ or . or are {REGISTRY}"
BROKEN_LINK = "because they are links to nothing or to a folder above them"
# Skipped files that are named; others are counted.
NAMED = 8


@dataclass(frozen=True)
class SourceFile:
    """A file of a source. name: in messages and tables. partitions: columns in the names of its folders."""

    uri: str
    name: str
    entry: storage.Entry
    partitions: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceFiles:
    """The files of a source in order, and the paths of the other files of its folder, by the reason."""

    files: tuple[SourceFile, ...]
    skipped: Mapping[str, list[str]] = field(default_factory=dict)


def find_source_files(spec: SourceSpec, root: str) -> SourceFiles:
    """Find the files of a source with a path; a relative path starts at `root`.

    Raises `ConfigError` if there is no supported file, or for a folder with several splits and no `split`.
    """
    assert spec.path is not None
    uri = source_uri(spec.path, root)
    file = storage.find(uri)
    if file is not None:
        return SourceFiles((SourceFile(uri, spec.path, _supported(spec, file)),))
    if not storage.exists(uri):
        raise ConfigError(
            f"source {spec.path}: {uri} does not exist; correct its path, or data.root", page="docs/data.md#files"
        )
    entries = {entry.path: entry for entry in storage.list_files(uri)}
    saved = _saved_by_datasets(spec, uri, set(entries))
    names, skipped = (saved, {}) if saved else _files_of_folder(spec, list(entries))
    folder = spec.path.rstrip("/")
    files = (
        SourceFile(storage.join(uri, name), f"{folder}/{name}", entries[name], partitions_of(name)) for name in names
    )
    return SourceFiles(tuple(files), skipped)


def _supported(spec: SourceSpec, file: storage.Entry) -> storage.Entry:
    if extension_of(file.path) is None:
        raise ConfigError(
            f"source {spec.path}: unknown extension; supported are {' '.join(EXTENSIONS)}", page="docs/data.md#files"
        )
    if spec.split not in (None, ALL):
        raise ConfigError(f"source {spec.path}: is a file, which has no splits; remove split: {spec.split}")
    return file


def _files_of_folder(spec: SourceSpec, paths: list[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Paths that are read, in order, and the others by the reason for which they are not."""
    visible = [path for path in paths if hidden_part(path) is None and posixpath.basename(path) not in REGISTRIES]
    supported = [path for path in visible if extension_of(path)]
    if not supported:
        found = f"; found {', '.join(paths[:5])}" if paths else ""
        raise ConfigError(
            f"source {spec.path}: no file with the extension {' '.join(EXTENSIONS)}{found}", page="docs/data.md#files"
        )
    read = _of_split(spec, supported)
    return read, {
        UNSUPPORTED: [path for path in visible if path not in set(supported)],
        OTHER_SPLIT: [path for path in supported if path not in set(read)],
        NOT_DATA: [path for path in paths if path not in set(visible)],
    }


def _of_split(spec: SourceSpec, paths: list[str]) -> list[str]:
    """The paths of the split that the job names, or all. Raises `ConfigError` for several splits and none named."""
    if spec.split == ALL:
        return paths
    splits = {path: split_of(path) for path in paths}
    counts = Counter(split or "no split" for split in splits.values())
    listed = ", ".join(f"{split} ({files} files)" for split, files in sorted(counts.items()))
    if spec.split is None:
        if len(counts) > 1 and not HELD_BACK.isdisjoint(counts):
            raise ConfigError(
                f"source {spec.path}: has files of several splits: {listed}; set split: to one of them or to {ALL}, or "
                "name one file or folder",
                page="docs/data.md#splits",
            )
        return paths
    wanted = split_of(spec.split) or spec.split
    chosen = [path for path in paths if splits[path] == wanted]
    if not chosen:
        raise ConfigError(
            f"source {spec.path}: has no files of the split {spec.split}; it has {listed}", page="docs/data.md#splits"
        )
    return chosen


def skipped_files(spec: SourceSpec, root: str) -> Iterator[str]:
    """A line for each reason for which files of a folder are not read."""
    if spec.path is None:
        return
    uri, skipped = source_uri(spec.path, root), dict(find_source_files(spec, root).skipped)
    if skipped:
        hidden = [*skipped[NOT_DATA], *(entry.path for entry in storage.list_temporary_files(uri))]
        skipped[NOT_DATA] = [hidden_part(path) or path for path in hidden]
        skipped[BROKEN_LINK] = storage.list_broken_links(uri)
    for reason, paths in skipped.items():
        names = [f"{name} ({files} files)" if files > 1 else name for name, files in sorted(Counter(paths).items())]
        if names:
            shown = ", ".join(names[:NAMED]) + ", ..." * (len(names) > NAMED)
            yield f"files not read {reason} ({len(paths)}): {shown}"


def _saved_by_datasets(spec: SourceSpec, uri: str, names: Collection[str]) -> list[str]:
    """Names of the Arrow files of a folder that `datasets` saved, in its order; empty for another folder."""
    if "dataset_dict.json" in names:
        splits: list[str] = json.loads(storage.read_bytes(storage.join(uri, "dataset_dict.json")))["splits"]
        if spec.split != ALL and spec.split not in splits:
            raise ConfigError(f"source {spec.path}: has the splits {', '.join(splits)}; set split: to one of them")
        chosen = splits if spec.split == ALL else [spec.split]
        return [file for split in chosen for file in _saved_files(spec, uri, names, f"{split}/")]
    if {"state.json", REGISTRY} <= set(names):
        if spec.split not in (None, ALL):
            raise ConfigError(f"source {spec.path}: has no splits; remove split: {spec.split}")
        return _saved_files(spec, uri, names, "")
    return []


def _saved_files(spec: SourceSpec, uri: str, names: Collection[str], folder: str) -> list[str]:
    state = json.loads(storage.read_bytes(storage.join(uri, f"{folder}state.json")))
    files = [f"{folder}{one['filename']}" for one in state["_data_files"]]
    for missing in set(files).difference(names):
        raise SourceError(f"{spec.path}: {missing} is missing; save the data set again")
    return files
