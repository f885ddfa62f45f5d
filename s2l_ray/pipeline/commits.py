"""The commits of a job's models and data sets on the hub.

A revision of the hub can change, so a plan replaces each one by its commit, which is then part of the identity of what
is built, and what every worker loads. The commits of a run are recorded with it, for a plan without a network.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from s2l_ray.config.evaluate import EvaluationTask
from s2l_ray.config.identity import local_folder
from s2l_ray.config.sections import Config, Data, Embed, Proxy, Source, Target
from s2l_ray.config.subsections import CheckpointFrom
from s2l_ray.errors import ConfigError
from s2l_ray.sources.hub import RepositoryKind, find_commit, is_commit

S = TypeVar("S", Embed, Proxy, Target)
R = TypeVar("R", Source, CheckpointFrom, EvaluationTask)


@dataclass
class Commits:
    """Commits by reference, such as `model owner/name@main`, while those of one job are looked up.

    known: looked up before. last: of the last run of that name. unreachable: whether the hub did not answer.
    """

    known: dict[str, str]
    last: Mapping[str, str]
    unreachable: bool = False

    def find(self, key: str, kind: RepositoryKind, name: str, revision: str | None) -> str | None:
        """The commit of what the job names at `key`; the revision as written if no commit of it is known."""
        if is_commit(revision):
            return revision
        reference = f"{kind} {name}@{revision or 'main'}"
        if reference not in self.known and not self.unreachable:
            try:
                commit = find_commit(kind, name, revision)
            except ConfigError as error:
                raise ConfigError(f"{key}: {error}", page=error.page) from error
            self.unreachable = commit is None
            if commit is not None:
                self.known[reference] = commit
        return self.known.get(reference) or self.last.get(reference) or revision


def resolve_commits(config: Config, kinds: list[str], commits: Commits) -> Config:
    """The job with commits as the revisions of what `kinds` are built from.

    Raises `ConfigError` for what does not exist on the hub, or may not be read.
    """
    sections: dict[str, object] = {}
    if {"dataset", "task", "target_dataset"} & set(kinds):
        sections["data"] = _data(config, commits)
    if "embeddings" in kinds:
        sections["embed"] = _with_model(config, config.embed, "embed", commits)
    if "task" in kinds or "checkpoints" in kinds:
        sections["proxy"] = _proxy(config, commits)
    if "target" in kinds or "target_dataset" in kinds:
        sections["target"] = _target(config, commits)
    if "evaluation" in kinds:
        tasks = [_with_commit(one, f"evaluate.tasks: {one.name}", "dataset", commits) for one in config.evaluate.tasks]
        sections["evaluate"] = config.evaluate.model_copy(update={"tasks": tasks})
    return config.model_copy(update=sections)


def _data(config: Config, commits: Commits) -> Data:
    data = config.data
    sources = [
        _with_commit(one, f"data.sources.{number}", "dataset", commits) for number, one in enumerate(data.sources)
    ]
    changes: dict[str, object] = {"sources": sources}
    if _is_hub_id(config, data.tokenizer, "data.tokenizer"):
        name, revision = str(data.tokenizer), data.tokenizer_revision
        changes["tokenizer_revision"] = commits.find("data.tokenizer", "model", name, revision)
    return data.model_copy(update=changes)


def _proxy(config: Config, commits: Commits) -> Proxy:
    proxy = _with_model(config, config.proxy, "proxy", commits)
    changes: dict[str, object] = {}
    if proxy.train_on is not None:
        changes["train_on"] = _with_commit(proxy.train_on, "proxy.train_on", "dataset", commits)
    if isinstance(proxy.checkpoints_from, list):
        key = "proxy.checkpoints_from"
        changes["checkpoints_from"] = [
            _with_commit(one, f"{key}.{number}", "model", commits) for number, one in enumerate(proxy.checkpoints_from)
        ]
    return proxy.model_copy(update=changes)


def _target(config: Config, commits: Commits) -> Target:
    target = _with_model(config, config.target, "target", commits)
    if not _is_hub_id(config, target.tokenizer, "target.tokenizer"):
        return target
    revision = commits.find("target.tokenizer", "model", str(target.tokenizer), target.tokenizer_revision)
    return target.model_copy(update={"tokenizer_revision": revision})


def _with_model(config: Config, section: S, key: str, commits: Commits) -> S:
    if not _is_hub_id(config, section.model, f"{key}.model"):
        return section
    revision = commits.find(f"{key}.model", "model", str(section.model), section.revision)
    return section.model_copy(update={"revision": revision})


def _with_commit(one: R, key: str, kind: RepositoryKind, commits: Commits) -> R:
    if one.hub is None:
        return one
    return one.model_copy(update={"revision": commits.find(key, kind, one.hub, one.revision)})


def _is_hub_id(config: Config, name: object, key: str) -> bool:
    return isinstance(name, str) and local_folder(config, name, key) is None
