"""Records of a training that travel between driver and workers. Imports neither torch nor Ray."""

from dataclasses import dataclass
from typing import Any

from s2l_ray.artifacts.tables import FileRecord
from s2l_ray.core.training.records import CheckpointRecord
from s2l_ray.core.training.schedule import FinetuneSettings, LoraSettings, grid_steps, total_steps
from s2l_ray.runtime.contracts import RemoteTask, ResourceRequest, RetryOptions

MEMORY_HINT = "lower resources.train.micro_batch"


@dataclass(frozen=True)
class TrainJob:
    """One training.

    output: URI of the checkpoints artifact. dataset: URI of a complete dataset with `rows_ok` rows of status ok and its
    tokenizer in `tokenizer/`. model: a local folder, a hub id (at the commit `revision`), or the fields of a config for
    `init_model`, which also needs `vocab_size`. vocab_size, longest: largest token id + 1 and tokens of the longest row
    over the whole dataset, which the model must fit; 0 if unknown. subset: URI of a subset of the dataset with
    `train_examples` rows, to train on those instead of a sample. threads: torch threads of each worker. save_minutes:
    between saved states, by the clock. lora: adapters to train instead of all weights.
    """

    output: str
    dataset: str
    rows_ok: int
    model: str | dict[str, Any]
    settings: FinetuneSettings
    subset: str | None = None
    train_examples: int | None = None
    revision: str | None = None
    vocab_size: int = 0
    longest: int = 0
    threads: int = 1
    save_minutes: float = 5.0
    lora: LoraSettings | None = None

    def train_rows(self) -> int:
        return self.train_examples or self.rows_ok

    def total_steps(self) -> int:
        return total_steps(self.train_rows(), self.settings)

    def planned_steps(self) -> list[int]:
        """The steps of the checkpoints, ascending."""
        return grid_steps(self.train_rows(), self.settings)


@dataclass(frozen=True)
class TrainWorkers:
    """Workers of a training, each with `cpus` and `gpus` of Ray's.

    retries: replacements of lost workers without a newer saved state. stall_minutes: without a step.
    kind: of the artifact.
    """

    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 3
    stall_minutes: float = 30.0
    kind: str = "checkpoints"

    def task(self) -> RemoteTask:
        """The work of one worker. Ray Train starts lost workers again, and not the monitor."""
        request = ResourceRequest("train", MEMORY_HINT, self.workers, self.cpus, self.gpus)
        return RemoteTask(self.kind, "train", MEMORY_HINT, request, RetryOptions(0, self.stall_minutes, 0.0))


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint in storage and all its files, with paths relative to the artifact."""

    record: CheckpointRecord
    files: list[FileRecord]


@dataclass(frozen=True)
class TrainResult:
    """A complete training: its checkpoints by step, and all its files for the manifest."""

    checkpoints: list[StoredCheckpoint]
    files: list[FileRecord]
