"""What decides an artefact: the identity fields of each kind, with references in place of addresses.

In: a `Config`. Out: for each kind the plain JSON of its section, in which a path is replaced by the sha256 of what lies
there, a hub id by the id and its revision as written, and what only says how fast is left out.
"""

from pathlib import Path
from typing import Any

from s2l_ray import storage
from s2l_ray.config.sections import Config, Source, TokenizerToTrain
from s2l_ray.core.selection.registry import SELECTORS
from s2l_ray.errors import ConfigError
from s2l_ray.sources.digests import file_reference, source_reference
from s2l_ray.sources.ranges import SourceSpec

ADDRESSES = {"path"}
CLUSTER_ONLY = {"min_cluster_size"}
"""Fields of `select` that only methods over clusters read."""


def identity_of(kind: str, config: Config) -> dict[str, Any]:
    """The identity fields of one kind, as dotted keys of the job file show them: {"cluster": {"k": 100, ...}}.

    Raises `ConfigError` where a file that the job names is not there.
    """
    if kind == "dataset":
        return {"data": _data_identity(config)}
    if kind == "checkpoints":
        proxy = config.proxy.model_dump(mode="json")
        return {"proxy": {**proxy, "model": _model_reference(config)}}
    if kind == "trajectories":
        return {"score": _without_later_keys(config.score.model_dump(mode="json"), {"failures": "fail"})}
    if kind == "clusters":
        return {"cluster": config.cluster.model_dump(mode="json")}
    fields = config.select.model_dump(mode="json")
    unread = set() if "clusters" in selector_inputs(config) else CLUSTER_ONLY
    return {"select": {key: value for key, value in fields.items() if key not in unread}}


def stricter(config: Config) -> Config:
    """The same job, as it is where no failure is allowed: what it has begun, one that allows them goes on with."""
    return config.model_copy(update={"score": config.score.model_copy(update={"failures": "fail"})})


def selector_inputs(config: Config) -> tuple[str, ...]:
    """The kinds that the job's selector reads, the dataset among them. Raises `ConfigError` for an unknown one."""
    method = config.select.method
    if method not in SELECTORS:
        known = "; ".join(f"{name} ({selector.summary})" for name, selector in SELECTORS.items())
        raise ConfigError(f"select.method: no selector {method}; there are {known}")
    return tuple(dict.fromkeys(("dataset", *SELECTORS[method].inputs)))


def local_folder(config: Config, name: str, key: str) -> Path | None:
    """The folder below `data.root` that `name` means, or None where it is a hub id.

    Raises `ConfigError` for a name that can only be a folder, and is not there.
    """
    folder = Path(storage.absolute(config.data.root)) / Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ConfigError(
            f"{key}: no folder {folder}; write a folder, or a hub id such as EleutherAI/pythia-70m-deduped"
        )
    return None


def _without_later_keys(fields: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """The fields without keys that came later and are at the value that means what was done before them."""
    return {key: value for key, value in fields.items() if key not in later or value != later[key]}


def _data_identity(config: Config) -> dict[str, Any]:
    data = config.data
    fields = data.model_dump(mode="json", exclude={"root", "sources", "tokenizer_revision"})
    fields["sources"] = [_source_identity(source, data.root) for source in data.sources]
    if not isinstance(data.tokenizer, TokenizerToTrain):
        fields["tokenizer"] = _reference(config, data.tokenizer, data.tokenizer_revision, "data.tokenizer")
    return fields


def _source_identity(source: Source, root: str) -> dict[str, Any]:
    spec = source_spec(source)
    fields = source.model_dump(mode="json", exclude=ADDRESSES)
    if source.source is None:
        fields["source"] = {"name": spec.stem}
    return {**fields, "files": source_reference(spec, root)}


def source_spec(source: Source) -> SourceSpec:
    """A source of the job as its reader takes it."""
    fields = ("path", "hub", "revision", "split", "source", "only")
    return SourceSpec(**{name: getattr(source, name) for name in fields})


def _model_reference(config: Config) -> Any:
    model = config.proxy.model
    return model if isinstance(model, dict) else _reference(config, model, config.proxy.revision, "proxy.model")


def _reference(config: Config, name: str, revision: str | None, key: str) -> Any:
    folder = local_folder(config, name, key)
    return {"hub": name, "revision": revision} if folder is None else {"files": file_reference(folder)}
