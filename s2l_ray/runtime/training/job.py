"""A training as the driver asks for it, and what it hears of it.

In: plain values of a job. Out: records that travel between driver and workers. Neither torch nor Ray is imported here.
"""

from dataclasses import dataclass
from typing import Any

from s2l_ray.core.training.settings import FinetuneSettings

LOWER = "resources.train.micro_batch"
"""The key that makes a worker need less memory."""


@dataclass(frozen=True)
class TrainJob:
    """One training, in plain values that travel to the workers.

    output: URI of the checkpoints artefact. dataset: URI of a finished dataset with `rows_ok` rows of status ok and its
    tokenizer in `tokenizer/`. model: a local folder, a hub id (of `revision`), or the fields of a
    config for `init_model`, which then also needs `vocab_size`. threads: torch threads of each worker. save_minutes:
    between states, by the clock.
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
    threads: int = 1
    save_minutes: float = 5.0


@dataclass(frozen=True)
class TrainProgress:
    """Where a training is. Rates are of this run of it; `note` is a line to keep."""

    step: int
    total_steps: int
    loss: float
    learning_rate: float
    tokens_per_second: float
    examples_per_second: float
    seconds_left: float
    note: str = ""
