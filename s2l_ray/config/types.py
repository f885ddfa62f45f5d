"""The base of all sections of a job file, and the types that several sections use."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Precision = Literal["float32", "bfloat16"]


class Section(BaseModel):
    """A frozen part of the job file; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def keys(cls) -> list[str]:
        return [field.alias or name for name, field in cls.model_fields.items()]


def refuse_keys(missing: Sequence[str], without_effect: Sequence[str], reason: str) -> None:
    """Raise `pydantic.ValidationError` for dotted keys that are missing, or that `reason` deprives of their effect."""
    unused = PydanticCustomError("without_effect", "has no effect {reason}; remove it", {"reason": reason})
    errors = [InitErrorDetails(type="missing", loc=tuple(key.split(".")), input={}) for key in missing]
    errors += [InitErrorDetails(type=unused, loc=tuple(key.split(".")), input={}) for key in without_effect]
    if errors:
        raise ValidationError.from_exception_data("job", errors)
