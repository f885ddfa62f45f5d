"""The section `evaluate` of a job file: what a target model is measured on."""

from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from s2l_ray.config.types import NonNegativeInt, PositiveInt, Precision, Section
from s2l_ray.core.evaluation.extraction import AnswerType
from s2l_ray.core.evaluation.tasks import TASKS, Task

MetricName = Literal["exact_match", "bleu", "rouge_l", "bert_score"]


class EvaluationTask(Section):
    """A task: its questions (path, or hub), and the keys of a row of TASKS that differ for it.

    name: of a row of TASKS, whose values the other keys have if they are not set; or a new one. A name alone can be
    written as text.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    path: str | None = None
    hub: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    instruction: str | None = None
    input: str | None = None
    reference: str | None = None
    answer_type: AnswerType | None = None
    metrics: Annotated[list[MetricName], Field(min_length=1)] | None = None
    programs: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    def task(self) -> Task:
        """The row of TASKS with the keys that are set."""
        keys = ("instruction", "input", "reference", "answer_type", "programs")
        own = {key: getattr(self, key) for key in keys if getattr(self, key) is not None}
        own |= {"metrics": tuple(self.metrics)} if self.metrics else {}
        return replace(TASKS.get(self.name, Task()), **own)


class Evaluate(Section):
    """The evaluation of the target. loss: on the held-out rows. dtype: of the model's weights.

    files: paths of the questions of tasks, by name. limit: the first questions of each task. template: of prompts; auto
    is that of the training rows, chats or Alpaca. samples: outputs for each question, at a temperature. stop: texts
    that end an output. bert_model: folder of the model of BERTScore, of which bert_layer is compared.
    """

    loss: bool = True
    dtype: Precision = "float32"
    tasks: list[EvaluationTask] = []
    files: dict[str, str] = {}
    template: Literal["auto", "alpaca", "none", "chat"] = "auto"
    limit: PositiveInt | None = None
    samples: PositiveInt = 1
    temperature: Annotated[float, Field(ge=0)] = 0.0
    max_new_tokens: PositiveInt = 512
    stop: list[str] = ["### Instruction:"]
    seed: NonNegativeInt = 0
    bert_model: str | None = None
    bert_layer: PositiveInt | None = None

    @model_validator(mode="after")
    def _check_tasks(self) -> Self:
        if not self.loss and not self.tasks:
            raise ValueError("loss: false leaves nothing to evaluate; add tasks, or set loss: true")
        names = [one.name for one in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"tasks: {', '.join(names)} are not all different; give each its own name")
        for one in self.tasks:
            if sum(value is not None for value in (one.path, one.hub, self.files.get(one.name))) != 1:
                raise ValueError(
                    f"tasks: {one.name} needs its questions from one origin; write files: {{{one.name}: FILE}}, or "
                    f"{{name: {one.name}, path: FILE}}, or {{name: {one.name}, hub: ID, split: test}}"
                )
        if self.samples > 1 and not self.temperature:
            raise ValueError(f"samples: {self.samples} outputs are equal at temperature 0; set a temperature")
        return self
