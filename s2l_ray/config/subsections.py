"""Sections inside sections: of `data`, imports, `cluster.checkpoints`, `target.lora`, `resources` and `estimate`."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from s2l_ray.config.types import NonNegativeInt, PositiveInt, Section, tag
from s2l_ray.core.trajectories import Window


class EvaluationSet(Section):
    """A file or folder of evaluation rows. question: the field, or fields, of the question; guessed if there is none.

    A path alone can be written as text.
    """

    path: str
    question: str | list[str] = []

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class CheckpointFrom(Section):
    """A model that was trained elsewhere: a folder (`path`), or a revision of the hub (`hub`), and its step."""

    path: str | None = None
    hub: str | None = None
    revision: str | None = None
    step: NonNegativeInt

    @model_validator(mode="after")
    def _check_one_origin(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("a checkpoint needs either path: (folder) or hub: (id of a model)")
        if self.revision is not None and self.hub is None:
            raise ValueError("a folder has no revision; remove it")
        return self


# a list, or the URI of a checkpoints artifact
CheckpointsFrom = Annotated[
    Annotated[list[CheckpointFrom], Field(min_length=1), Tag(tag("list"))] | Annotated[str, Tag(tag("uri"))],
    Discriminator(lambda value: tag("uri" if isinstance(value, str) else "list")),
]


class LossesFrom(Section):
    """Per-example losses in Parquet, NPY or training dynamics: `docs/imports.md`. columns: {step: column}."""

    path: str
    values: Literal["loss", "perplexity", "nll_sum", "logits"]
    columns: dict[NonNegativeInt, NonNegativeInt | str] = {}
    key: str = "row"
    tokens: str | None = None

    @model_validator(mode="after")
    def _check_tokens(self) -> Self:
        if self.values == "nll_sum" and self.tokens is None:
            raise ValueError("values: nll_sum needs the number of target tokens; add tokens: COLUMN")
        return self


class HeldOut(Section):
    """Rows of every source that are never trained on and never selected, at most a tenth of it."""

    per_source: PositiveInt


class CheckpointWindow(Section):
    """Trained checkpoints between two shares of the examples seen, then every n-th of them, then the last m."""

    model_config = ConfigDict(serialize_by_alias=True)

    start: Annotated[float, Field(ge=0, le=1, alias="from")] = 0.0
    to: Annotated[float, Field(ge=0, le=1)] = 1.0
    every: PositiveInt = 1
    last: PositiveInt | None = None

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.start > self.to:
            raise ValueError(f"from: {self.start} is after to: {self.to}; exchange them")
        return self

    def window(self) -> Window:
        return Window(self.start, self.to, self.every, self.last)


class Lora(Section):
    """Low-rank adapters of the target's linear layers. target_modules: names of layers; empty: all but the output."""

    r: PositiveInt = 16
    alpha: PositiveInt = 32
    target_modules: list[str] = []


Attention = Literal["auto", "padded"]
Gpus = Literal["auto"] | Annotated[float, Field(ge=0)]
Workers = PositiveInt | Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]


class PrepareResources(Section):
    """Workers that read and tokenize rows; `auto` is one per free CPU."""

    workers: Workers | Literal["auto"] = "auto"
    range_bytes: PositiveInt = 64 << 20


class EmbedResources(Section):
    """Actors that embed text, one model each; `auto` is one per GPU, or one per core of this machine."""

    workers: Workers | Literal["auto"] = "auto"
    gpus: Gpus = "auto"
    threads: PositiveInt = 1
    rows_per_batch: PositiveInt = 32


class TrainResources(Section):
    """Data-parallel workers of the fine-tuning of the proxy and of the target."""

    workers: PositiveInt = 1
    gpus: Gpus = "auto"
    threads: PositiveInt | None = None
    micro_batch: PositiveInt = 16
    save_minutes: Annotated[float, Field(gt=0)] = 5.0
    strategy: Literal["ddp", "fsdp"] = "ddp"
    attention: Attention = "auto"
    gradient_checkpointing: bool = False
    retries: NonNegativeInt = 3  # after losing workers without a newer saved state


class ScoreResources(Section):
    """Actors that record losses, one model each; `auto` is one per GPU, or one per core of this machine."""

    workers: Workers | Literal["auto"] = "auto"
    gpus: Gpus = "auto"
    threads: PositiveInt = 1
    tokens_per_batch: PositiveInt = 16384
    attention: Attention = "auto"
    cache_gb: Annotated[float, Field(ge=0)] = 50.0  # a node's copies of files from an object store
    allow_failures: NonNegativeInt = 0  # units that may fail in every attempt


class EvaluateResources(Section):
    """Actors that evaluate the target, one model each; `auto` is one per GPU, or one per core of this machine.

    engine: of generation; auto is vllm on GPUs where it is installed. prompts_per_batch: of transformers; vllm chooses
    its own. prompts_per_unit: questions whose answers are stored at once; auto is 512 for vllm, else 32.
    """

    workers: Workers | Literal["auto"] = "auto"
    gpus: Gpus = "auto"
    threads: PositiveInt = 1
    tokens_per_batch: PositiveInt = 16384
    attention: Attention = "auto"
    cache_gb: Annotated[float, Field(ge=0)] = 50.0  # a node's copies of files from an object store
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    prompts_per_batch: PositiveInt = 16
    prompts_per_unit: PositiveInt | Literal["auto"] = "auto"


class ClusterResources(Section):
    """The k-means fit, which runs on one node. workers: CPU threads."""

    backend: Literal["auto", "cuml", "torch"] = "auto"
    workers: PositiveInt = 1


class ModelSize(Section):
    """Size of a model of the hub."""

    parameters: PositiveInt
    layers: PositiveInt
    hidden_size: PositiveInt
    vocab_size: PositiveInt


class Gpu(Section):
    """A GPU: its memory, its rate at the precision of the job in 10^12 FLOP/s, and the share of it that is reached."""

    memory_gb: Annotated[float, Field(gt=0)]
    tflops: Annotated[float, Field(gt=0)]
    utilization: Annotated[float, Field(gt=0, le=1)] = 0.3


class EstimateInputs(Section):
    """Figures that `s2l plan` cannot know offline; stored or measured ones are used instead, where there are any.

    rows: of the pool. tokens_per_row: their mean. questions: of all tasks together. models: sizes by hub id. gpu: of
    the workers of every stage.
    """

    rows: PositiveInt | None = None
    tokens_per_row: Annotated[float, Field(gt=0)] | None = None
    questions: PositiveInt | None = None
    models: dict[str, ModelSize] = {}
    gpu: Gpu | None = None
