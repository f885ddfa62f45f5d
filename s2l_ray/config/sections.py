"""The sections of a job and their keys, checked whole before anything starts.

In: plain values, which `job_reading` takes from a job file. Out: a frozen `Config`. Defaults live here and nowhere
else. Every section but `resources` says what is built and is part of an artefact's identity; `resources` says how fast,
and changing it rebuilds nothing. `root`, `run` and `data.root` are addresses and no identity either.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Precision = Literal["float32", "bfloat16"]


def _percent_or_rows(value: object) -> object:
    """`10%` stays text, a number must be a count of rows."""
    if isinstance(value, str) and value.endswith("%"):
        share = float(value.removesuffix("%"))
        if not 0 < share <= 100:
            raise ValueError(f"{value} is no share of the pool; write 0.1% to 100%")
        return value
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError(f"{value!r} is neither rows nor a share; write a positive number of rows, or a share like 10%")
    return value


Budget = Annotated[int | str, BeforeValidator(_percent_or_rows)]


def rows_of(budget: int | str, pool: int) -> int:
    """A budget in rows: an integer as it is, a percentage as the floor of that share of the pool."""
    return int(pool * float(budget.removesuffix("%")) / 100) if isinstance(budget, str) else budget


class Section(BaseModel):
    """A frozen part of the job file; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(Section):
    """Raw rows: a file or folder by `path`, or a data set of a hub by `hub`."""

    path: str | None = None
    hub: str | None = None
    split: str | None = None
    revision: str | None = None
    format: Literal["alpaca", "prompt_response", "sharegpt", "messages"] | None = None
    fields: dict[str, str] = {}
    source: dict[Literal["field", "name"], str] | None = None
    only: dict[str, str | list[str]] = {}
    rows: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("a source has either path: (file or folder) or hub: (a data set's id)")
        if self.source is not None and len(self.source) != 1:
            raise ValueError("source: takes either {field: NAME} or {name: NAME}")
        return self


class TrainTokenizer(Section):
    """A byte-level BPE tokenizer trained on the rows that are kept."""

    vocab_size: Annotated[int, Field(ge=300)]


class TokenizerToTrain(Section):
    """The form `tokenizer: {train: {vocab_size: 2048}}`."""

    train: TrainTokenizer


class Data(Section):
    """The pool: where its rows come from and how they become tokens."""

    root: str = "."
    sources: Annotated[list[Source], Field(min_length=1)]
    tokenizer: str | TokenizerToTrain
    tokenizer_revision: str | None = None
    max_length: Annotated[int, Field(ge=2)] = 512
    duplicates: Literal["drop", "keep"] = "drop"
    too_long: Literal["truncate", "drop"] = "truncate"
    shard_size: PositiveInt = 8192
    limit: Budget | None = None
    seed: NonNegativeInt = 0


class Checkpoints(Section):
    """When the proxy is saved; the union of what is asked for. Step 0 always is."""

    steps: PositiveInt | None = None
    examples: PositiveInt | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    log: PositiveInt | None = None
    epoch_ends: bool = False

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not (self.steps or self.examples or self.fraction or self.log or self.epoch_ends):
            raise ValueError("asks for none; write e.g. {steps: 500}, {fraction: 0.1} or {epoch_ends: true}")
        return self


class Proxy(Section):
    """The small model and its fine-tuning. `model`: hub id, folder, or a config: {architecture: gpt_neox, ...}."""

    model: str | dict[str, Any]
    revision: str | None = None
    epochs: PositiveInt = 3
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    batch_size: PositiveInt = 128
    precision: Precision = "bfloat16"
    checkpoints: Checkpoints = Checkpoints(fraction=0.1)
    train_examples: PositiveInt | None = None
    held_out: NonNegativeInt = 0
    seed: NonNegativeInt = 42


class Score(Section):
    """What is recorded for every example at every checkpoint."""

    checkpoints: Literal["all"] | list[NonNegativeInt] = "all"
    dtype: Precision = "float32"
    statistics: list[Literal["loss", "mean_probability", "token_accuracy", "mean_entropy", "el2n"]] = ["loss"]
    non_finite: Literal["fail", "null"] = "fail"
    failures: Literal["fail", "allow"] = "fail"  # of units, after resources.retries


class Cluster(Section):
    """K-means over trajectories."""

    k: PositiveInt = 100
    sample_per_cluster: PositiveInt = 256
    sample_iterations: PositiveInt = 30
    iterations: PositiveInt = 5
    restarts: PositiveInt = 1
    group_by: Literal["source", "none"] = "source"
    checkpoints: Literal["all", "trained"] | list[NonNegativeInt] = "trained"
    max_fit_rows: PositiveInt = 20_000_000
    seed: NonNegativeInt = 0


class Select(Section):
    """Which rows are taken. The names of methods are checked against the table of selectors."""

    method: str = "s2l"
    budget: Budget
    min_cluster_size: PositiveInt = 3
    seed: NonNegativeInt = 0


Gpus = Literal["auto"] | Annotated[float, Field(ge=0)]
Workers = PositiveInt | Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]


class PrepareResources(Section):
    """Workers that read and tokenise rows; `auto` is one a free CPU."""

    workers: Workers | Literal["auto"] = "auto"
    range_bytes: PositiveInt = 64 << 20


class TrainResources(Section):
    """Data-parallel workers of the proxy's fine-tuning."""

    workers: PositiveInt = 1
    gpus: Gpus = "auto"
    threads: PositiveInt | None = None
    micro_batch: PositiveInt = 16
    save_minutes: Annotated[float, Field(gt=0)] = 5.0
    strategy: Literal["ddp", "fsdp"] = "ddp"
    attention: Literal["auto", "padded"] = "auto"
    gradient_checkpointing: bool = False
    retries: NonNegativeInt = 3  # of lost workers, before a newer state is saved


class ScoreResources(Section):
    """Actors that record losses, one model each; `auto` is one a GPU, or one a core of this machine."""

    workers: Workers | Literal["auto"] = "auto"
    gpus: Gpus = "auto"
    threads: PositiveInt = 1
    tokens_per_batch: PositiveInt = 16384
    attention: Literal["auto", "padded"] = "auto"
    cache_gb: Annotated[float, Field(ge=0)] = 50.0  # of checkpoints and shards that a node keeps of an object store


class ClusterResources(Section):
    """The k-means fit, which runs in one place."""

    backend: Literal["auto", "cuml", "torch"] = "auto"
    workers: PositiveInt = 1
    threads: PositiveInt | None = None


class Resources(Section):
    """The only fields that are no identity: changing them rebuilds nothing."""

    prepare: PrepareResources = PrepareResources()
    train: TrainResources = TrainResources()
    score: ScoreResources = ScoreResources()
    cluster: ClusterResources = ClusterResources()
    wait_minutes: Annotated[float, Field(ge=0)] = 15.0  # for nodes that a cluster has yet to start
    keep_checkpoints: Literal["none", "last", "all"] = "all"  # their weights, once they are scored
    retries: NonNegativeInt = 2  # of a unit that failed, before it is set aside
    stall_minutes: Annotated[float, Field(gt=0)] = 30.0  # without anything new, before a run ends


class Config(Section):
    """A whole job."""

    root: str
    run: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    data: Data
    proxy: Proxy
    score: Score = Score()
    cluster: Cluster = Cluster()
    select: Select
    resources: Resources = Resources()
