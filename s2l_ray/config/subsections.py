"""Sections inside sections: evaluation sets in `data.exclude`, and the window of `cluster.checkpoints`."""

from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from s2l_ray.config.types import PositiveInt, Section
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
