"""Records of a training that travel between driver and workers. Imports neither torch nor Ray."""

from dataclasses import dataclass
from typing import Any

from s2l_ray.artifacts.tables import FileRecord
from s2l_ray.core.training.records import CheckpointRecord
from s2l_ray.core.training.settings import FinetuneSettings

MEMORY_HINT = "lower resources.train.micro_batch"


@dataclass(frozen=True)
class TrainJob:
    """One training.

    output: URI of the checkpoints artifact. dataset: URI of a complete dataset with `rows_ok` rows of status ok and its
    tokenizer in `tokenizer/`. model: a local folder, a hub id (at `revision`), or the fields of a config for
    `init_model`, which also needs `vocab_size`. vocab_size, longest: largest token id + 1 and tokens of the longest row
    over the whole dataset, which the model must fit; 0 if unknown. threads: torch threads of each worker. save_minutes:
    between saved states, by the clock.
    """

    output: str
    dataset: str
    rows_ok: int
    model: str | dict[str, Any]
    settings: FinetuneSettings
    held_out: int = 0
    train_examples: int | None = None
    revision: str | None = None
    vocab_size: int = 0
    longest: int = 0
    threads: int = 1
    save_minutes: float = 5.0


@dataclass(frozen=True)
class TrainWorkers:
    """Workers of a training, each with `cpus` and `gpus` of Ray's.

    retries: replacements of lost workers without a newer saved state. stall_minutes: without a step.
    """

    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 3
    stall_minutes: float = 30.0


@dataclass(frozen=True)
class TrainProgress:
    """Progress of a training. Rates are over this run of it. A record with a `note` is a warning and has no figures."""

    step: int = 0
    total_steps: int = 0
    loss: float = 0.0
    learning_rate: float = 0.0
    tokens_per_second: float = 0.0
    examples_per_second: float = 0.0
    seconds_left: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint in storage; paths of the files are relative to its folder."""

    record: CheckpointRecord
    files: list[FileRecord]


@dataclass(frozen=True)
class TrainResult:
    """A complete training: its checkpoints by step, and all its files for the manifest."""

    checkpoints: list[StoredCheckpoint]
    files: list[FileRecord]
