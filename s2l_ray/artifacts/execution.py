"""Execution records: how an artifact is computed, fixed when it is begun.

A resume uses the recorded values, because the number of training workers, micro-batches, threads and backends can
change the last bits of a result. None of this is identity.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import ValidationError

from s2l_ray import storage
from s2l_ray.artifacts.fingerprint import from_json, seal, unseal
from s2l_ray.errors import S2LError

EXECUTION = "execution.json"


@dataclass(frozen=True)
class PrepareExecution:
    """range_bytes: size of the ranges that text sources are cut into; the table of rejected rows has a file a range."""

    range_bytes: int


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
class ClusterExecution:
    """Resolved `resources.cluster`."""

    backend: Literal["cuml", "torch"]
    workers: int
    gpus: float


@dataclass(frozen=True)
class SelectExecution:
    """A draw has one way to be computed."""


Settings = PrepareExecution | TrainExecution | ScoreExecution | ClusterExecution | SelectExecution

EXECUTIONS: dict[str, type[Settings]] = {
    "dataset": PrepareExecution,
    "checkpoints": TrainExecution,
    "trajectories": ScoreExecution,
    "clusters": ClusterExecution,
    "subset": SelectExecution,
}


@dataclass(frozen=True)
class Execution:
    """The settings of one stage and the versions of the libraries at the time."""

    settings: Settings
    libraries: dict[str, str]


def execution_from_json(kind: str, values: dict[str, Any]) -> Execution:
    """The record of an artifact of this kind. Raises `pydantic.ValidationError` where fields do not match."""
    return Execution(from_json(EXECUTIONS[kind], values["settings"]), dict(values["libraries"]))


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
