"""TASKS: the table of evaluation tasks. A new task is one row, here or in a job file.

A task asks zero-shot, in the template of the training data. Where programs are allowed, it asks for a program first,
runs it in the sandbox, and asks for an answer in text only if the program printed none.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from s2l_ray.core.data.examples import ALPACA, ALPACA_WITH_INPUT
from s2l_ray.core.evaluation.answers import reference_text, reference_type
from s2l_ray.core.evaluation.extraction import AnswerType, extract_answer, extract_printed_answer, find_program
from s2l_ray.core.evaluation.generation import Output, Prompt
from s2l_ray.core.evaluation.sandbox import ProgramRun

Row = Mapping[str, object]
# Outputs for prompts, in order.
Generate = Callable[[Sequence[Prompt]], Sequence[Output]]
Run = Callable[[str], ProgramRun]

# Asks for a program, as in the program-of-thought rows of MathInstruct.
PROGRAM_REQUEST = " Let's write a Python program to solve it."


@dataclass(frozen=True)
class Task:
    """A row of TASKS.

    instruction, input: templates over the fields of a row. reference: the field of the reference answer.
    answer_type: of the reference; a set of numbers may also have choices (a capital letter) and names.
    metrics: names of METRICS, of which the first is the task's score. programs: ask for a program first.
    """

    instruction: str = "{question}"
    input: str = ""
    reference: str = "answer"
    answer_type: AnswerType = "number"
    metrics: tuple[str, ...] = ("exact_match",)
    programs: bool = True


SUMMARY = Task("{instruction}", "{input}", "response", "text", ("rouge_l", "bleu", "bert_score"), programs=False)

TASKS: dict[str, Task] = {
    "gsm8k": Task(),
    "math": Task(answer_type="expression"),
    "numglue": Task(),
    "svamp": Task(),
    "mathematics": Task(answer_type="expression"),
    "simuleq": Task(),
    "clinical_summary": SUMMARY,
}


@dataclass(frozen=True)
class Question:
    """One row of a task: its prompt, the prompt that asks for a program, and the reference."""

    prompt: str
    program_prompt: str | None
    reference: str
    answer_type: AnswerType


@dataclass(frozen=True)
class Answer:
    """Answer to a question. text: extracted; None if there is none. program: that printed it. error: of a program."""

    text: str | None
    program: str | None = None
    error: str = ""


@dataclass(frozen=True)
class Response:
    """The answer, and the output that it is in. earlier: output to a prompt for a program that yielded no answer."""

    prompt: str
    output: Output
    answer: Answer
    earlier: Output | None = None


def make_question(task: Task, row: Row, template: str = "alpaca") -> Question:
    """The question of a row. A null is no value, and in the input an empty text.

    Raises `ValueError` without a value of the task, for an empty instruction, and for a reference like a list or NaN.
    """
    given = {name: value for name, value in row.items() if value is not None}
    instruction = _fill(task.instruction, given)
    context = _fill(task.input, dict.fromkeys(row, "") | given)
    value = _reference_value(task, given)
    if not instruction.strip():
        raise ValueError("the instruction is empty")
    reference, prompt = reference_text(value, task.answer_type), TEMPLATES[template]
    program = prompt(instruction + PROGRAM_REQUEST, context) if task.programs else None
    return Question(prompt(instruction, context), program, reference, reference_type(task.answer_type, reference))


def _fill(template: str, fields: Row) -> str:
    try:
        return template.format_map(fields)
    except KeyError as error:
        raise _no_value(error.args[0], fields) from error
    except (AttributeError, IndexError, TypeError) as error:
        raise ValueError(f"{template!r} cannot be filled: {error}") from error


def _reference_value(task: Task, fields: Row) -> str | int | float:
    if task.reference not in fields:
        raise _no_value(task.reference, fields)
    value = fields[task.reference]
    if not isinstance(value, str | int | float):
        raise ValueError(f"the reference {task.reference} is of type {type(value).__name__}, not text or a number")
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"the reference {task.reference} is NaN")
    return value


def _no_value(name: object, fields: Row) -> ValueError:
    return ValueError(f"a row has no value of the field {name!r}; it has {', '.join(fields)}")


def _alpaca(instruction: str, context: str) -> str:
    template = ALPACA_WITH_INPUT if context.strip() else ALPACA
    return template.format(instruction=instruction, input=context)


def _joined(instruction: str, context: str) -> str:
    return f"{instruction}\n\n{context}" if context.strip() else instruction


# The text around instruction and input; that of a chat is written by the chat template, around a turn of the user.
TEMPLATES: dict[str, Callable[[str, str], str]] = {"alpaca": _alpaca, "none": _joined, "chat": _joined}


def answer_from_output(question: Question, output: str, run: Run) -> Answer:
    """The answer in an output to either prompt: what its program prints, or what its text states."""
    source = find_program(output) if question.program_prompt is not None else None
    if source is None:
        return Answer(extract_answer(output, question.answer_type))
    done = run(source)
    printed = extract_printed_answer(done.output, question.answer_type) if done.outcome == "finished" else None
    return Answer(printed, source, done.error)


def ask(questions: Sequence[Question], seeds: Sequence[int], generate: Generate, run: Run) -> list[Response]:
    """Responses to the questions, in order: to the prompt for a program, else to the prompt for text.

    seeds: of each question's first output; that of the second is one higher.
    """
    first = [
        Prompt(question.program_prompt or question.prompt, seed)
        for question, seed in zip(questions, seeds, strict=True)
    ]
    responses = _respond(questions, first, generate, run)
    again = [
        at
        for at, (question, response) in enumerate(zip(questions, responses, strict=True))
        if question.program_prompt is not None and response.answer.text is None
    ]
    second = [Prompt(questions[at].prompt, seeds[at] + 1) for at in again]
    for at, response in zip(again, _respond([questions[at] for at in again], second, generate, run), strict=True):
        error = response.answer.error or responses[at].answer.error
        answer = replace(response.answer, error=error)
        responses[at] = replace(response, answer=answer, earlier=responses[at].output)
    return responses


def _respond(questions: Sequence[Question], prompts: Sequence[Prompt], generate: Generate, run: Run) -> list[Response]:
    outputs = generate(prompts)
    return [
        Response(prompt.text, output, answer_from_output(question, output.text, run))
        for question, prompt, output in zip(questions, prompts, outputs, strict=True)
    ]
