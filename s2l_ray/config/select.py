"""The section `select:`: a method, its budget, constraints on sources and rows, and the method's own keys."""

from functools import cached_property
from typing import Annotated, Self

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from s2l_ray.config.budget import SubsetBudget
from s2l_ray.config.types import NonNegativeInt, Section
from s2l_ray.core.selection.learning_percentage import LearningPercentageParams
from s2l_ray.core.selection.needs import Needs
from s2l_ray.core.selection.registry import SELECTORS, SelectorParams

Share = Annotated[float, Field(gt=0, le=1)]
Files = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class Select(Section):
    """The selection: a method of SELECTORS, its budget, and the method's own keys (its `params`).

    shares: of the budget, by source. caps: the most rows of a source. keep, drop: files of example ids or of row
    numbers of the dataset, one a line.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    method: str = "s2l"
    budget: SubsetBudget
    seed: NonNegativeInt = 0
    shares: dict[str, Share] = {}
    caps: dict[str, NonNegativeInt] = {}
    keep: Files = []
    drop: Files = []

    @classmethod
    def keys(cls) -> list[str]:
        own = (name for selector in SELECTORS.values() for name in selector.param_names())
        return [*super().keys(), *dict.fromkeys(own)]

    @model_validator(mode="after")
    def _check_method_and_keys(self) -> Self:
        if self.method not in SELECTORS:
            known = "; ".join(f"{name} ({selector.summary})" for name, selector in SELECTORS.items())
            raise ValueError(f"no method {self.method}; the methods are {known}")
        unknown = [
            InitErrorDetails(type="extra_forbidden", loc=(key,), input=value)
            for key, value in (self.model_extra or {}).items()
            if key not in self.keys()
        ]
        if unknown:
            raise ValidationError.from_exception_data("select", unknown)
        constrained = self.shares or self.caps or self.keep or self.drop or isinstance(self.budget, dict)
        if self.official_parts and constrained:
            raise ValueError(
                "compat: official of learning_percentage takes a budget in rows or a share alone; remove shares, caps, "
                "keep and drop"
            )
        return self

    @cached_property
    def params(self) -> SelectorParams:
        """The method's own keys. Keys of other methods are ignored, so that `--set select.method=` works alone."""
        selector = SELECTORS[self.method]
        own = {key: value for key, value in (self.model_extra or {}).items() if key in selector.param_names()}
        return TypeAdapter(selector.params).validate_python(own)

    @property
    def official_parts(self) -> bool:
        """Whether rows are selected by parts of groups, as the official code of learning percentage does."""
        return isinstance(self.params, LearningPercentageParams) and self.params.compat == "official"

    @property
    def needs(self) -> Needs:
        """The columns that the method reads."""
        return SELECTORS[self.method].needs(self.params)
