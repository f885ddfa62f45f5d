"""Execution records: how an artifact is computed, fixed when it is begun.

A resume uses the recorded values, because the number of training workers, micro-batches, threads, backends and library
versions can change the last bits of a result. None of this is identity.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from pydantic import ValidationError

from s2l_ray import storage
from s2l_ray.artifacts.fingerprint import from_json, seal, unseal
from s2l_ray.errors import S2LError

EXECUTION = "execution.json"
# Libraries that compute or encode what a unit stores; versions of others are recorded only.
COMPARED_LIBRARIES = ("torch", "transformers", "tokenizers", "sentence-transformers", "vllm", "pyarrow")


@dataclass(frozen=True)
class PrepareExecution:
    """range_bytes: size of the ranges that text sources are cut into; the table of rejected rows has a file a range."""

    range_bytes: int


@dataclass(frozen=True)
class EmbedExecution:
    """Resolved `resources.embed`, but for the number of workers, which may change midway."""

    rows_per_batch: int
    threads: int
    gpus: float


@dataclass(frozen=True)
class TrainExecution:
    """Resolved `resources.train`. threads: torch threads of each worker."""

    workers: int
    gpus: float
    threads: int
    micro_batch: int
    strategy: Literal["ddp", "fsdp"]
    attention: Literal["auto", "padded"]
    gradient_checkpointing: bool


@dataclass(frozen=True)
class ScoreExecution:
    """Resolved `resources.score`, but for the number of workers, which may change midway."""

    tokens_per_batch: int
    attention: Literal["auto", "padded"]
    threads: int
    gpus: float


@dataclass(frozen=True)
class EvaluateExecution:
    """Resolved `resources.evaluate`, but for the number of workers, which may change midway."""

    tokens_per_batch: int
    attention: Literal["auto", "padded"]
    threads: int
    gpus: float
    engine: Literal["transformers", "vllm"]
    prompts_per_batch: int
    prompts_per_unit: int


@dataclass(frozen=True)
class ClusterExecution:
    """Resolved `resources.cluster`."""

    backend: Literal["cuml", "torch"]
    workers: int
    gpus: float


@dataclass(frozen=True)
class ImportExecution:
    """An import has one way to be computed."""

    stage: Literal["imported"]


@dataclass(frozen=True)
class SelectExecution:
    """A draw has one way to be computed."""


Settings = (
    PrepareExecution
    | EmbedExecution
    | TrainExecution
    | ScoreExecution
    | ImportExecution
    | ClusterExecution
    | SelectExecution
    | EvaluateExecution
)

EXECUTIONS: dict[str, type[Settings]] = {
    "dataset": PrepareExecution,
    "embeddings": EmbedExecution,
    "task": PrepareExecution,
    "target_dataset": PrepareExecution,
    "checkpoints": TrainExecution,
    "trajectories": ScoreExecution,
    "clusters": ClusterExecution,
    "subset": SelectExecution,
    "target": TrainExecution,
    "evaluation": EvaluateExecution,
}


@dataclass(frozen=True)
class Execution:
    """The settings of one stage and the versions of the libraries when the artifact was begun.

    resumed_with: the versions of each resume under `--allow-version-change` that changed a compared library, in order.
    """

    settings: Settings
    libraries: dict[str, str]
    resumed_with: list[dict[str, str]] = field(default_factory=list)

    def changes(self, libraries: dict[str, str]) -> list[str]:
        """Compared libraries whose versions differ from those of the latest resume: `torch 2.12.0 -> 2.13.0`."""
        latest = [self.libraries, *self.resumed_with][-1]
        both = [name for name in COMPARED_LIBRARIES if name in latest and name in libraries]
        return [f"{name} {latest[name]} -> {libraries[name]}" for name in both if latest[name] != libraries[name]]

    def resumed(self, libraries: dict[str, str]) -> "Execution":
        """The record after a resume under these versions."""
        if not self.changes(libraries):
            return self
        return replace(self, resumed_with=[*self.resumed_with, libraries])


def execution_from_json(kind: str, values: dict[str, Any]) -> Execution:
    """The record of an artifact of this kind. Raises `pydantic.ValidationError` where fields do not match."""
    record: type[Settings] = ImportExecution if "stage" in values["settings"] else EXECUTIONS[kind]
    return Execution(from_json(record, values["settings"]), dict(values["libraries"]), list(values["resumed_with"]))


def read_execution(folder: str, kind: str) -> Execution | None:
    """The execution record of an artifact that was begun, or None.

    Raises `S2LError` where another version of s2l_ray wrote it.
    """
    uri = storage.join(folder, EXECUTION)
    try:
        return execution_from_json(kind, unseal(storage.read_bytes(uri), uri))
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValidationError) as error:
        raise S2LError(f"{uri}: written by another version of s2l_ray; use a new root") from error


def write_execution(folder: str, execution: Execution) -> None:
    storage.write_bytes(storage.join(folder, EXECUTION), seal(asdict(execution)))
