"""Identity: the part of a config that decides each artifact.

One function a kind returns the plain JSON of its section. References replace addresses: a local path becomes the
sha256 of its files, a hub id stays as written with its revision.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from s2l_ray import storage
from s2l_ray.config.sections import Config, Source, TokenizerToTrain
from s2l_ray.errors import ConfigError
from s2l_ray.sources.digests import file_reference, source_reference
from s2l_ray.sources.ranges import SourceSpec

Identity = dict[str, Any]


def dataset_identity(config: Config) -> Identity:
    """`data` with sources and tokenizer as references. Raises `ConfigError` where a file of the job is missing."""
    data = config.data
    fields = data.model_dump(mode="json", exclude={"root", "sources", "tokenizer_revision"})
    fields["sources"] = [_source_identity(source, data.root) for source in data.sources]
    if not isinstance(data.tokenizer, TokenizerToTrain):
        fields["tokenizer"] = _reference(config, data.tokenizer, data.tokenizer_revision, "data.tokenizer")
    return {"data": fields}


def checkpoints_identity(config: Config) -> Identity:
    """`proxy` with the model as a reference."""
    proxy = config.proxy
    model = proxy.model
    reference = model if isinstance(model, dict) else _reference(config, model, proxy.revision, "proxy.model")
    return {"proxy": {**proxy.model_dump(mode="json"), "model": reference}}


def subset_identity(config: Config) -> Identity:
    """`select` with the method's own keys."""
    select = config.select
    return {"select": {"method": select.method, "budget": select.budget, "seed": select.seed, **asdict(select.params)}}


def source_spec(source: Source) -> SourceSpec:
    """A source of the job as its reader takes it."""
    return SourceSpec(**source.model_dump(exclude={"format", "fields", "rows"}))


def local_folder(config: Config, name: str, key: str) -> Path | None:
    """The folder that `name` means, relative to `data.root`, or None for a hub id.

    Raises `ConfigError` for a name that can only be a folder and does not exist.
    """
    folder = Path(storage.absolute(config.data.root)) / Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ConfigError(
            f"{key}: no folder {folder}; write a folder, or a hub id such as EleutherAI/pythia-70m-deduped"
        )
    return None


def _source_identity(source: Source, root: str) -> Identity:
    spec = source_spec(source)
    fields = source.model_dump(mode="json", exclude={"path"})
    if source.source is None:
        fields["source"] = {"name": spec.stem}
    return {**fields, "files": source_reference(spec, root)}


def _reference(config: Config, name: str, revision: str | None, key: str) -> Identity:
    folder = local_folder(config, name, key)
    return {"hub": name, "revision": revision} if folder is None else {"files": file_reference(folder)}
