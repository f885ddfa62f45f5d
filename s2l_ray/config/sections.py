"""The sections of a job file: keys, types, defaults.

`config.load` reads a job file into a frozen `Config`. Every section but `resources` is part of an artifact's identity;
`root`, `run` and `data.root` are addresses and never identity.
"""

import datetime
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from s2l_ray.config.budget import Budget
from s2l_ray.config.evaluate import Evaluate
from s2l_ray.config.select import Select
from s2l_ray.config.subsections import (
    CheckpointsFrom,
    CheckpointWindow,
    ClusterResources,
    EmbedResources,
    EstimateInputs,
    EvaluateResources,
    EvaluationSet,
    HeldOut,
    Lora,
    LossesFrom,
    PrepareResources,
    ScoreResources,
    TrainResources,
)
from s2l_ray.config.types import (
    Names,
    NonNegativeInt,
    PositiveInt,
    Precision,
    Section,
    Statistics,
    Steps,
    refuse_missing,
    refuse_value,
    refuse_without_effect,
)
from s2l_ray.core.embedding import DEFAULT_MODEL, TextForm
from s2l_ray.core.selection.needs import Features
from s2l_ray.core.trajectories import choose_columns
from s2l_ray.errors import ConfigError


class Source(Section):
    """Raw rows: a file or folder (`path`), or a data set of the hub (`hub`, and `config` where it has several)."""

    path: str | None = None
    hub: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    format: Literal["alpaca", "prompt_response", "sharegpt", "messages", "radiology"] | None = None
    fields: dict[str, str] = {}
    roles: dict[str, Literal["system", "user", "assistant", "tool"]] = {}
    source: dict[Literal["field", "name"], str] | None = None
    only: dict[str, Names] = {}
    rows: PositiveInt | None = None

    @model_validator(mode="after")
    def _check_one_origin(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("a source needs either path: (file or folder) or hub: (id of a data set)")
        if self.config is not None and self.hub is None:
            raise ValueError("config: names a part of a data set of the hub; remove it, or write hub: instead of path:")
        if "[" in (self.split or ""):
            raise ValueError(f"split: {self.split} is a part of a split; write the name of the split, and rows: N")
        if self.source is not None and len(self.source) != 1:
            raise ValueError("source: takes either {field: NAME} or {name: NAME}")
        return self


class TrainTokenizer(Section):
    """A byte-level BPE tokenizer, trained on the pool."""

    vocab_size: Annotated[int, Field(ge=300)]


class TokenizerToTrain(Section):
    """The form `tokenizer: {train: {vocab_size: 2048}}`."""

    train: TrainTokenizer


class Data(Section):
    """The pool: its sources and how rows become tokens. Without sources, rows are those of `score.losses_from`."""

    root: str = "."
    sources: list[Source] = []
    tokenizer: str | TokenizerToTrain | None = None
    tokenizer_revision: str | None = None
    max_length: Annotated[int, Field(ge=2)] = 512
    date: datetime.date = datetime.date(2024, 1, 1)  # the only date that a chat template sees
    chat: Literal["auto", "whole", "per_answer"] = "auto"
    duplicates: Literal["drop", "keep"] = "drop"
    too_long: Literal["truncate", "drop"] = "truncate"
    shard_size: PositiveInt = 8192
    limit: Budget | None = None
    exclude: list[EvaluationSet] = []
    held_out: HeldOut | None = None
    seed: NonNegativeInt = 0


class Embed(Section):
    """Sentence embeddings of the rows. model: folder or hub id of a sentence-transformers model. max_length: tokens."""

    model: str = DEFAULT_MODEL
    revision: str | None = None
    text: TextForm = "instruction_response"
    max_length: PositiveInt = 256


class Checkpoints(Section):
    """When the proxy is saved: the union of the given grids, and step 0."""

    steps: PositiveInt | None = None
    examples: PositiveInt | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    log: PositiveInt | None = None
    epoch_ends: bool = False

    @model_validator(mode="after")
    def _check_any_grid(self) -> Self:
        if not (self.steps or self.examples or self.fraction or self.log or self.epoch_ends):
            raise ValueError("no grid is given; write e.g. {steps: 500}, {fraction: 0.1} or {epoch_ends: true}")
        return self


class Finetuning(Section):
    """Hyperparameters of a fine-tuning. batch_size: of all workers together."""

    epochs: PositiveInt = 3
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    batch_size: PositiveInt = 128
    precision: Precision = "bfloat16"
    seed: NonNegativeInt = 42


class Proxy(Finetuning):
    """The proxy model and its fine-tuning. model: hub id, folder, or a config {architecture: gpt_neox, ...}.

    train_on: rows of a target task to train on instead of the pool, for `loss_drop`. checkpoints_from: checkpoints
    trained elsewhere instead, or the URI of a checkpoints artifact.
    """

    train_on: Source | None = None
    checkpoints_from: CheckpointsFrom | None = None
    model: str | dict[str, Any] | None = None
    revision: str | None = None
    checkpoints: Checkpoints = Checkpoints(fraction=0.1)
    train_examples: PositiveInt | None = None

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        steps = [one.step for one in self.checkpoints_from] if isinstance(self.checkpoints_from, list) else []
        if len(set(steps)) < len(steps):
            raise ValueError(f"checkpoints_from: the steps {steps} are not all different; give each its own")
        return self


class TargetSteps(Section):
    """The form `compute: {steps: N}`."""

    steps: PositiveInt


class Target(Finetuning):
    """The target model and its fine-tuning on the subset, on the whole pool, or not at all (rows: none).

    compute: optimizer steps: as many as `epochs` of the pool (same_steps), of the rows trained on (same_epochs), or N.
    lora: train adapters instead of all weights. tokenizer: of the target, if it is not that of the data.
    """

    model: str | dict[str, Any] | None = None
    revision: str | None = None
    tokenizer: str | None = None
    tokenizer_revision: str | None = None
    rows: Literal["subset", "pool", "none"] = "subset"
    compute: Literal["same_steps", "same_epochs"] | TargetSteps = "same_steps"
    lora: Lora | None = None


class Score(Section):
    """The statistics recorded for every example at every checkpoint; losses_from: or losses computed elsewhere."""

    losses_from: LossesFrom | None = None
    checkpoints: Literal["all"] | Steps = "all"
    dtype: Precision = "float32"
    statistics: Statistics = ["loss"]
    non_finite: Literal["fail", "null"] = "fail"

    def steps(self, saved: list[int]) -> list[int]:
        """The steps to score. Raises `ConfigError` for one that was not saved."""
        if self.checkpoints == "all":
            return saved
        if unknown := sorted(set(self.checkpoints) - set(saved)):
            raise ConfigError(f"score.checkpoints: steps {unknown} were not saved; the saved steps are {saved}")
        return sorted(set(self.checkpoints))


class Cluster(Section):
    """K-means over loss trajectories, or over the embeddings of `embed:`, to which `checkpoints` does not apply."""

    features: Features = "trajectories"
    k: PositiveInt = 100
    sample_per_cluster: PositiveInt = 256
    sample_iterations: PositiveInt = 30
    iterations: PositiveInt = 5
    restarts: PositiveInt = 1
    group_by: Literal["source", "none"] = "source"
    checkpoints: Literal["all", "trained"] | CheckpointWindow | Steps = "trained"
    max_fit_rows: PositiveInt = 20_000_000
    seed: NonNegativeInt = 0

    def columns(self, steps: Sequence[int]) -> list[int]:
        """Columns of the losses that form a trajectory. Raises `ConfigError` where no checkpoint is left."""
        wanted = self.checkpoints.window() if isinstance(self.checkpoints, CheckpointWindow) else self.checkpoints
        try:
            return choose_columns(wanted, steps)
        except ValueError as error:
            raise ConfigError(f"cluster.{error}; change cluster.checkpoints") from error


class Resources(Section):
    """Speed, retries and timeouts; never identity. A lower `score.allow_failures` has skipped units scored again."""

    prepare: PrepareResources = PrepareResources()
    embed: EmbedResources = EmbedResources()
    train: TrainResources = TrainResources()
    score: ScoreResources = ScoreResources()
    cluster: ClusterResources = ClusterResources()
    evaluate: EvaluateResources = EvaluateResources()
    wait_minutes: Annotated[float, Field(ge=0)] = 15.0  # for resources of an autoscaling cluster
    retries: NonNegativeInt = 2  # of a unit that failed
    stall_minutes: Annotated[float, Field(gt=0)] = 30.0  # without progress, before a run is aborted


class Prices(Section):
    """The user's prices, in any currency, of an hour of a GPU and of a CPU and of a GB for a month; never identity."""

    gpu_hour: Annotated[float, Field(ge=0)] | None = None
    cpu_hour: Annotated[float, Field(ge=0)] | None = None
    storage_gb_month: Annotated[float, Field(ge=0)] | None = None


class Config(Section):
    """A whole job."""

    root: str
    run: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    track: list[Literal["mlflow", "wandb"]] = []  # beside TensorBoard files; never identity
    data: Data = Data()
    embed: Embed = Embed()
    proxy: Proxy = Proxy()
    score: Score = Score()
    cluster: Cluster = Cluster()
    select: Select
    target: Target = Target()
    evaluate: Evaluate = Evaluate()
    resources: Resources = Resources()
    prices: Prices = Prices()
    estimate: EstimateInputs = EstimateInputs()  # never identity

    @model_validator(mode="after")
    def _check_origin_of_losses(self) -> Self:
        imported = self.score.losses_from is not None
        if imported:
            unused = ["proxy"] if self.proxy != Proxy() else []
            unused += self.score.changed_keys("score", but=("losses_from", "non_finite"))
            refuse_without_effect(unused, "with score.losses_from")
        elif self.proxy.checkpoints_from is not None:
            unused = self.proxy.changed_keys("proxy", but=("checkpoints_from",))
            refuse_without_effect(unused, "with proxy.checkpoints_from")
        if self.proxy.train_on is not None and isinstance(self.data.tokenizer, TokenizerToTrain):
            refuse_value(
                "proxy.train_on",
                "needs a tokenizer that does not depend on the pool; set data.tokenizer to a folder or a hub id, e.g. "
                "the folder tokenizer/ of a dataset artifact",
            )
        missing = [] if imported or self.proxy.model or self.proxy.checkpoints_from else ["proxy.model"]
        if not self.data.sources and (not imported or self.data.tokenizer is not None):
            missing.append("data.sources")
        if self.data.tokenizer is None and (not imported or self.data.sources):
            missing.append("data.tokenizer")
        refuse_missing(missing)
        return self

    @property
    def without_data(self) -> bool:
        """Whether the pool is the row numbers of `score.losses_from`."""
        return not self.data.sources
