"""The base of all sections of a job file, and the types that several sections use."""

from collections.abc import Collection, Sequence
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Steps = Annotated[list[NonNegativeInt], Field(min_length=1), AfterValidator(lambda steps: sorted(set(steps)))]
Precision = Literal["float32", "bfloat16"]

Statistic = Literal["loss", "mean_probability", "token_accuracy", "mean_entropy", "el2n", "grand", "top_entropy"]


def _in_one_order(statistics: list[Statistic]) -> list[Statistic]:
    """The statistics in the order of their columns, with the loss, which is always recorded."""
    return [name for name in get_args(Statistic) if name == "loss" or name in statistics]


Statistics = Annotated[list[Statistic], AfterValidator(_in_one_order)]


Names = Annotated[
    list[str],
    BeforeValidator(lambda names: [names] if isinstance(names, str) else names),
    AfterValidator(lambda names: sorted(set(names))),
]
"""One name or several, in any order."""


class Section(BaseModel):
    """A frozen part of the job file; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def keys(cls) -> list[str]:
        return [field.alias or name for name, field in cls.model_fields.items()]

    def changed_keys(self, name: str, but: Collection[str]) -> list[str]:
        """Dotted keys of this section, called `name`, with another value than the default; none of `but`."""
        return [f"{name}.{key}" for key, value in type(self)() if key not in but and getattr(self, key) != value]


def tag(name: str) -> str:
    """Name of an alternative in the location of an error, distinguished from keys by its parentheses."""
    return f"({name})"


def is_tag(part: object) -> bool:
    return str(part).startswith("(")


def refuse_missing(keys: Sequence[str]) -> None:
    """Raise `pydantic.ValidationError` for dotted keys that are missing, if any."""
    _raise([InitErrorDetails(type="missing", loc=tuple(key.split(".")), input={}) for key in keys])


def refuse_value(key: str, reason: str) -> None:
    """Raise `pydantic.ValidationError` for the value of a dotted key."""
    problem = PydanticCustomError("value_error", "{reason}", {"reason": reason})
    _raise([InitErrorDetails(type=problem, loc=tuple(key.split(".")), input={})])


def refuse_without_effect(keys: Sequence[str], reason: str) -> None:
    """Raise `pydantic.ValidationError` for dotted keys that have no effect beside others, if any."""
    unused = PydanticCustomError("without_effect", "has no effect {reason}; remove it", {"reason": reason})
    _raise([InitErrorDetails(type=unused, loc=tuple(key.split(".")), input={}) for key in keys])


def _raise(errors: list[InitErrorDetails]) -> None:
    if errors:
        raise ValidationError.from_exception_data("job", errors)
