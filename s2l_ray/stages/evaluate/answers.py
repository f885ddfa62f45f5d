"""A worker of `evaluate`: the target's answers to a part of the questions of a task.

The worker takes plain values and runs without Ray in tests. Only it imports torch or vLLM.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.artifacts.schemas import ANSWERS, step_name
from s2l_ray.artifacts.tables import FileRecord, read_table, write_table
from s2l_ray.core.evaluation.generation import GenerationOptions, Output, Prompt
from s2l_ray.core.evaluation.sandbox import ProgramRun, run_program, warm_up
from s2l_ray.core.evaluation.tasks import Response, ask
from s2l_ray.errors import S2LError
from s2l_ray.stages.build_models import device_of, load_checkpoint
from s2l_ray.stages.evaluate.losses import EvaluationModel
from s2l_ray.stages.evaluate.questions import questions_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Continue = Callable[[Sequence[Sequence[int]], Sequence[int], GenerationOptions], list[Output]]


@dataclass(frozen=True)
class AnswerUnit:
    """The questions from `start` to `stop` of a task, in its file of questions. key: what it is made from."""

    task: str
    questions: FileRecord
    start: int
    stop: int
    key: dict[str, str]

    @property
    def name(self) -> str:
        """Path of the unit's file."""
        return f"work/answers/{self.task}/{self.start:06d}.parquet"


class AnswerWorker:
    """The target model in memory, or in an engine of vLLM, with its tokenizer.

    date: the only one that the chat template sees, where prompts are chats; else None. questions: of all tasks.
    """

    def __init__(self, folder: str, model: EvaluationModel, date: str | None, questions: Sequence[FileRecord]) -> None:
        import torch

        from s2l_ray.core.evaluation.prompts import PromptEncoder

        torch.set_num_threads(model.execution.threads)
        self._folder, self._evaluate = folder, model.evaluate
        dataset, target = open_artifact(model.dataset), open_artifact(model.target)
        with dataset.hold("tokenizer/", model.cache_bytes) as local:
            self._encoder = PromptEncoder.load(local / "tokenizer", date)
        self._options = GenerationOptions(
            max_new_tokens=model.evaluate.max_new_tokens,
            end_ids=self._encoder.end_ids,
            stop=tuple(model.evaluate.stop),
            temperature=model.evaluate.temperature,
            batch_size=model.execution.prompts_per_batch,
        )
        lengths = [self._longest_prompt(file) for file in questions]
        longest = max(lengths) + model.evaluate.max_new_tokens
        self._continue, positions = _load_engine(dataset, target, model, self._encoder.tokenizer, longest)
        self._longest = positions - model.evaluate.max_new_tokens
        if self._longest < 1:
            raise S2LError(
                f"evaluate.max_new_tokens: {model.evaluate.max_new_tokens} leaves no position for a prompt among the "
                f"{positions} positions of the target; lower it"
            )
        self._warm = False

    def __call__(self, unit: AnswerUnit) -> FileRecord:
        table = read_table(self._folder, unit.questions).slice(unit.start, unit.stop - unit.start)
        samples = self._evaluate.samples
        keys = [(number, sample) for number in range(unit.start, unit.stop) for sample in range(samples)]
        questions = [question for question in questions_of(table) for _ in range(samples)]
        seeds = [sample_seed(self._evaluate.seed, number, sample) for number, sample in keys]
        responses = ask(questions, seeds, self._generate, self._run)
        rows = [
            {"question": number, "sample": sample, "reference": question.reference, **_response_row(response)}
            for (number, sample), question, response in zip(keys, questions, responses, strict=True)
        ]
        answers = pa.Table.from_pylist(rows, schema=ANSWERS)
        return write_table(self._folder, unit.name, answers, unit.key)

    def _longest_prompt(self, questions: FileRecord) -> int:
        table = read_table(self._folder, questions, ["prompt", "program_prompt"])
        prompts = [text for column in table.columns for text in column.to_pylist() if text is not None]
        return max(map(len, self._encoder.encode(prompts)))

    def _generate(self, prompts: Sequence[Prompt]) -> list[Output]:
        """Outputs for prompts, in order; one that is too long for the model has none."""
        ids = self._encoder.encode([prompt.text for prompt in prompts])
        fitting = [at for at, own in enumerate(ids) if len(own) <= self._longest]
        outputs = [Output("", 0, asked=False)] * len(prompts)
        if fitting:
            seeds = [prompts[at].seed for at in fitting]
            continued = self._continue([ids[at] for at in fitting], seeds, self._options)
            for at, output in zip(fitting, continued, strict=True):
                outputs[at] = output
        return outputs

    def _run(self, source: str) -> ProgramRun:
        if not self._warm:
            warm_up()
            self._warm = True
        return run_program(source)


def sample_seed(seed: int, question: int, sample: int) -> int:
    """The seed of a question's output, even, so that seed + 1 is that of its second output."""
    return int(np.random.SeedSequence([seed, question, sample]).generate_state(1)[0]) & ~1


def _response_row(response: Response) -> dict[str, object]:
    output, answer, earlier = response.output, response.answer, response.earlier
    return {
        "prompt": response.prompt,
        "output": output.text if output.asked else None,
        "earlier_output": earlier.text if earlier is not None and earlier.asked else None,
        "program": answer.program,
        "error": answer.error or None,
        "extracted": answer.text,
        "output_tokens": output.tokens,
    }


def _load_engine(
    dataset: Artifact, target: Artifact, model: EvaluationModel, tokenizer: "PreTrainedTokenizerBase", longest: int
) -> tuple[Continue, int]:
    """The function that continues prompts, and the positions of the model.

    longest: tokens of the longest prompt and its output, for which vLLM reserves memory.
    """
    from s2l_ray.core.evaluation.generation import generate
    from s2l_ray.core.model_config import max_positions

    step, dtype, gpus = model.step(), model.evaluate.dtype, model.execution.gpus
    if model.execution.engine == "transformers":
        loaded = load_checkpoint(dataset, target, step, dtype, device_of(gpus), model.cache_bytes)
        return partial(generate, loaded, tokenizer), max_positions(loaded.config)
    from transformers import AutoConfig

    from s2l_ray.core.evaluation.vllm_generation import generate_with_vllm, load_vllm

    with target.hold(f"{step_name(step)}/", model.cache_bytes) as local:
        folder = local / step_name(step)
        positions = max_positions(AutoConfig.from_pretrained(folder, local_files_only=True))
        engine = load_vllm(folder, dtype, min(positions, longest), gpus)
    return partial(generate_with_vllm, engine, tokenizer), positions
