"""Identity: the part of a config that decides each artifact.

One function a kind returns the plain JSON of its section. References replace addresses: a local path becomes the
sha256 of its files, a revision of the hub is a commit. Raises `UnresolvedError` for a revision that is none.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from s2l_ray import storage
from s2l_ray.config.evaluate import EvaluationTask
from s2l_ray.config.sections import Config, Data, Source
from s2l_ray.core.selection.checkpoint_scores import ColumnParams
from s2l_ray.errors import ConfigError
from s2l_ray.sources.checkpoints import CheckpointOrigin, artifact_origins, folder_origin, hub_origin
from s2l_ray.sources.digests import content_references, folder_reference, source_reference
from s2l_ray.sources.evaluation import EvaluationSpec
from s2l_ray.sources.files.paths import ALL
from s2l_ray.sources.hub import require_commit
from s2l_ray.sources.losses import LossesSpec, check_values, losses_files
from s2l_ray.sources.spec import SourceSpec, source_uri

Identity = dict[str, Any]


def dataset_identity(config: Config) -> Identity:
    """`data` with sources and tokenizer as references. Raises `ConfigError` where a file of the job is missing."""
    data = config.data
    fields = data.model_dump(mode="json", exclude={"root", "sources", "tokenizer_revision"})
    fields["sources"] = [_source_identity(source, data.root) for source in data.sources]
    fields["exclude"] = [
        {"question": spec.question, "files": source_reference(SourceSpec(path=spec.path, split=ALL), data.root)}
        for spec in evaluation_specs(data)
    ]
    if isinstance(data.tokenizer, str):
        fields["tokenizer"] = _reference(config, data.tokenizer, data.tokenizer_revision, "data.tokenizer")
    return {"data": fields}


def task_config(config: Config) -> Config:
    """The job whose pool is `proxy.train_on`, prepared like the pool but for its limit and its evaluation sets.

    Raises `ConfigError` without that key.
    """
    if config.proxy.train_on is None:
        raise ConfigError("proxy.train_on: missing; name the rows of a target task to prepare them")
    data = config.data.model_copy(update={"sources": [config.proxy.train_on], "limit": None, "exclude": []})
    return config.model_copy(update={"data": data})


def task_identity(config: Config) -> Identity:
    return dataset_identity(task_config(config))


def target_dataset_config(config: Config) -> Config:
    """The job whose rows are encoded by `target.tokenizer`. Raises `ConfigError` without that key."""
    target = config.target
    if target.tokenizer is None:
        raise ConfigError("target.tokenizer: missing; the target has the tokenizer of the data")
    changes = {"tokenizer": target.tokenizer, "tokenizer_revision": target.tokenizer_revision}
    return config.model_copy(update={"data": config.data.model_copy(update=changes)})


def target_dataset_identity(config: Config) -> Identity:
    return dataset_identity(target_dataset_config(config))


def row_numbers_identity(config: Config) -> Identity:
    """The dataset of a job without `data`: the rows of its losses, their names and lengths.

    The name of the file is that of the source.
    """
    losses = losses_identity(config)["score"]["losses_from"]
    rows = {name: losses[name] for name in ("files", "key", "tokens")} | {"name": losses_spec(config).file_name}
    return {"data": {"rows_of": rows, "shard_size": config.data.shard_size}}


def embeddings_identity(config: Config) -> Identity:
    """`embed` with the model as a reference."""
    embed = config.embed
    reference = _reference(config, embed.model, embed.revision, "embed.model")
    return {"embed": {"model": reference, "text": embed.text, "max_length": embed.max_length}}


def checkpoints_identity(config: Config) -> Identity:
    """`proxy` with the model as a reference, of which the commit of a hub id is a part."""
    proxy = config.proxy
    model = proxy.model
    reference = _reference(config, model, proxy.revision, "proxy.model") if isinstance(model, str) else model
    fields = proxy.model_dump(mode="json", exclude={"checkpoints_from", "train_on", "revision"})
    return {"proxy": {**fields, "model": reference}}


def imported_checkpoints_identity(config: Config) -> Identity:
    """`proxy.checkpoints_from`: what is known of each checkpoint, and references to the files of its model."""
    origins = checkpoint_origins(config)
    for one in origins:
        if one.folder is None:
            require_commit(f"proxy.checkpoints_from: {one.hub}", one.revision)
    return {"proxy": {"checkpoints_from": [[asdict(one.record), one.reference] for one in origins]}}


def trajectories_identity(config: Config) -> Identity:
    """`score` where losses are computed here."""
    return {"score": config.score.model_dump(mode="json", exclude={"losses_from"})}


def losses_identity(config: Config) -> Identity:
    """`score.losses_from` with a reference to its files, and what is done with a missing loss."""
    score, spec = config.score, losses_spec(config)
    assert score.losses_from is not None
    fields = score.losses_from.model_dump(mode="json", exclude={"path"})
    files = losses_files(spec.uri)
    check_values(spec, [name for name, _ in files])
    return {"score": {"losses_from": {**fields, "files": content_references(files)}, "non_finite": score.non_finite}}


def clusters_identity(config: Config) -> Identity:
    """`cluster`, without the checkpoints where embeddings are clustered."""
    embedded = config.cluster.features == "embeddings"
    return {"cluster": config.cluster.model_dump(mode="json", exclude={"checkpoints"} if embedded else None)}


def subset_identity(config: Config) -> Identity:
    """`select` with the constraints that are set and the method's own keys; files are named by their digests."""
    select = config.select
    fields = {"method": select.method, "budget": select.budget, "seed": select.seed, **asdict(select.params)}
    constraints: Identity = {"shares": select.shares, "caps": select.caps}
    for key, paths in (("keep", select.keep), ("drop", select.drop)):
        constraints[key] = [_digest(config, path, f"select.{key}") for path in paths]
    if isinstance(select.params, ColumnParams):
        fields["path"] = _digest(config, select.params.path, "select.path")
    return {"select": fields | {key: value for key, value in constraints.items() if value}}


def target_identity(config: Config) -> Identity:
    """`target` with the model as a reference. Raises `ConfigError` without a model."""
    target, model = config.target, config.target.model
    if model is None:
        raise ConfigError("target.model: is missing; name the model to train, as a hub id or a folder")
    reference = _reference(config, model, target.revision, "target.model") if isinstance(model, str) else model
    addresses = {"revision", "tokenizer", "tokenizer_revision"}  # tokens are those of an input
    return {"target": {**target.model_dump(mode="json", exclude=addresses), "model": reference}}


def evaluation_identity(config: Config) -> Identity:
    """`evaluate`, in which tasks have references to their questions; without tasks, only what decides losses."""
    evaluate = config.evaluate
    fields: Identity = {"loss": evaluate.loss, "dtype": evaluate.dtype}
    if evaluate.tasks:
        fields |= evaluate.model_dump(mode="json", exclude={"tasks", "files", "bert_model", "bert_layer"})
        fields["tasks"] = [
            {
                "name": one.name,
                **asdict(one.task()),
                "files": source_reference(questions_spec(config, one), config.data.root),
            }
            for one in evaluate.tasks
        ]
    if any("bert_score" in one.task().metrics for one in evaluate.tasks) and evaluate.bert_model is not None:
        folder = local_folder(config, evaluate.bert_model, "evaluate.bert_model")
        if folder is None:
            raise ConfigError(f"evaluate.bert_model: {evaluate.bert_model} is no folder; write the folder of a model")
        fields["bert_model"] = [folder_reference(folder), evaluate.bert_layer]
    return {"evaluate": fields}


def questions_spec(config: Config, task: EvaluationTask) -> SourceSpec:
    """The questions of a task as their reader takes them."""
    path = task.path or config.evaluate.files.get(task.name)
    return SourceSpec(path=path, hub=task.hub, config=task.config, split=task.split, revision=task.revision)


def source_spec(source: Source) -> SourceSpec:
    """A source of the job as its reader takes it."""
    return SourceSpec(**source.model_dump(exclude={"format", "fields", "roles", "rows"}))


def checkpoint_origins(config: Config) -> list[CheckpointOrigin]:
    """The checkpoints of `proxy.checkpoints_from`, ascending by step. Raises `ConfigError` for what is missing."""
    wanted, root = config.proxy.checkpoints_from, storage.absolute(config.data.root)
    assert wanted is not None
    if isinstance(wanted, str):
        return artifact_origins(storage.absolute(wanted))
    return [
        folder_origin(one.step, source_uri(one.path, root))
        if one.path
        else hub_origin(one.step, str(one.hub), one.revision)
        for one in sorted(wanted, key=lambda one: one.step)
    ]


def losses_spec(config: Config) -> LossesSpec:
    """The losses of `score.losses_from` as their reader takes them."""
    losses = config.score.losses_from
    assert losses is not None
    uri = source_uri(losses.path, storage.absolute(config.data.root))
    return LossesSpec(uri, losses.values, losses.columns, losses.key, losses.tokens)


def evaluation_specs(data: Data) -> list[EvaluationSpec]:
    """`data.exclude` as its reader takes it."""
    return [
        EvaluationSpec(one.path, (one.question,) if isinstance(one.question, str) else tuple(one.question))
        for one in data.exclude
    ]


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


def _digest(config: Config, path: str, key: str) -> str:
    uri = source_uri(path, storage.absolute(config.data.root))
    if storage.find(uri) is None:
        raise ConfigError(f"{key}: {uri} does not exist; correct the path, or data.root")
    return storage.sha256_file(uri)


def _source_identity(source: Source, root: str) -> Identity:
    spec = source_spec(source)
    fields = source.model_dump(mode="json", exclude={"path", "config"})  # a config is part of the reference
    if source.hub is None:
        fields["revision"] = None  # files have none
    if source.source is None:
        fields["source"] = {"name": spec.stem}
    return {**fields, "files": source_reference(spec, root)}


def _reference(config: Config, name: str, revision: str | None, key: str) -> Identity:
    folder = local_folder(config, name, key)
    if folder is not None:
        return {"files": folder_reference(folder)}
    require_commit(f"{key}: {name}", revision)
    return {"hub": name, "revision": revision}
