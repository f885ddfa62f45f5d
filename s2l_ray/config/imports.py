"""The keys of a job that import what was computed elsewhere."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from s2l_ray.config.types import NonNegativeInt, Section, tag


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
