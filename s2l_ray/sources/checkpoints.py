"""Checkpoints that were trained elsewhere: folders of models, revisions of the hub, or a checkpoints artifact."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from s2l_ray import storage
from s2l_ray.artifacts.facts import CheckpointsFacts
from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.artifacts.schemas import step_name
from s2l_ray.core.training.records import CheckpointRecord
from s2l_ray.errors import ConfigError, S2LError
from s2l_ray.sources.digests import Reference, named_references

WEIGHTS = "*.safetensors"
# The files of a model that are imported: weights, config, tokenizer. Nothing else is, such as states of an optimizer.
MODEL_FILES = (
    WEIGHTS,
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template.jinja",
)
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class CheckpointOrigin:
    """One checkpoint. folder: its URI, or None for a revision of the hub. reference: its files, for the identity."""

    record: CheckpointRecord
    reference: tuple[Reference, ...]
    folder: str | None
    hub: str = ""
    revision: str | None = None

    @property
    def name(self) -> str:
        return self.folder or (f"{self.hub} at {self.revision}" if self.revision else self.hub)


def folder_origin(step: int, folder: str) -> CheckpointOrigin:
    """A checkpoint in a folder. Raises `ConfigError` if it has no config or no safetensors weights."""
    names = {entry.path: entry for entry in storage.list_files(folder)}
    files = [(storage.join(folder, name), entry) for name, entry in names.items() if is_model_file(name)]
    if "config.json" not in names or not any(fnmatch(name, WEIGHTS) for name in names):
        pickled = next((name for name in names if any(fnmatch(name, pattern) for pattern in PICKLED)), None)
        hint = "write the folder of a transformers model"
        if pickled is not None:
            hint = (
                f"{pickled} may be a pickle, which runs code when it is read, so it is not read. If you trust its "
                "origin, save it once with AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(OTHER_FOLDER)"
            )
        raise ConfigError(f"proxy.checkpoints_from: {folder} has no config.json and .safetensors weights; {hint}")
    return CheckpointOrigin(CheckpointRecord(step), tuple(named_references(files)), folder)


def hub_origin(step: int, hub: str, revision: str | None) -> CheckpointOrigin:
    return CheckpointOrigin(CheckpointRecord(step), ([hub, revision],), None, hub, revision)


def artifact_origins(uri: str) -> list[CheckpointOrigin]:
    """The checkpoints of a complete artifact. Raises `ConfigError` where it is none, or weights were deleted."""
    try:
        artifact = open_artifact(uri)
        records = artifact.facts(CheckpointsFacts).checkpoints
    except (S2LError, TypeError) as error:
        raise ConfigError(f"proxy.checkpoints_from: {error}; write the URI of a checkpoints artifact") from error
    origins = []
    for record in records:
        folder = f"{step_name(record.step)}/"
        files = [file for file in artifact.files(folder) if is_model_file(file.path.removeprefix(folder))]
        if artifact.dropped.intersection(file.path for file in files):
            raise ConfigError(
                f"proxy.checkpoints_from: {uri}: the weights of step {record.step} were deleted by gc --weights; "
                "train them again with --rebuild checkpoints in the job that made them"
            )
        reference: Sequence[Reference] = [[file.path.removeprefix(folder), file.sha256] for file in files]
        origins.append(CheckpointOrigin(record, tuple(reference), storage.join(uri, folder.rstrip("/"))))
    return origins


def is_model_file(path: str) -> bool:
    return "/" not in path and any(fnmatch(path, pattern) for pattern in MODEL_FILES)
