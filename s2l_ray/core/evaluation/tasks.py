"""TASKS: the table of evaluation tasks. A new task is one row, here or in a job file.

A task asks zero-shot, in the template of the training data. Where programs are allowed, it asks for a program first,
runs it in the sandbox, and asks for an answer in text only if the program printed none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from s2l_ray.core.data.examples import ALPACA, ALPACA_WITH_INPUT
from s2l_ray.core.evaluation.answers import reference_text, reference_type
from s2l_ray.core.evaluation.extraction import AnswerType, extract_answer, extract_printed_answer, find_program
from s2l_ray.core.evaluation.sandbox import ProgramRun

Row = Mapping[str, object]

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
    """One row of a task: its prompt in the Alpaca template, the prompt that asks for a program, and the reference."""

    prompt: str
    program_prompt: str | None
    reference: str
    answer_type: AnswerType


@dataclass(frozen=True)
class Answer:
    """Answer to a question. text: extracted; None if there is none. error: of the program, if one failed."""

    text: str | None
    program: bool = False
    error: str = ""


def make_question(task: Task, row: Row) -> Question:
    """The question of a row. Raises `ValueError` without a field of the task, or for a reference like a list."""
    try:
        instruction, context = task.instruction.format_map(row), task.input.format_map(row)
        value = row[task.reference]
    except KeyError as error:
        raise ValueError(f"a row has no field {error}; it has {', '.join(row)}") from error
    if not isinstance(value, str | int | float):
        raise ValueError(f"the reference {task.reference} is of type {type(value).__name__}, not text or a number")
    reference = reference_text(value)
    program = _prompt(instruction + PROGRAM_REQUEST, context) if task.programs else None
    return Question(_prompt(instruction, context), program, reference, reference_type(task.answer_type, reference))


def _prompt(instruction: str, context: str) -> str:
    template = ALPACA_WITH_INPUT if context.strip() else ALPACA
    return template.format(instruction=instruction, input=context)


def answer_from_output(question: Question, output: str, run: Callable[[str], ProgramRun]) -> Answer:
    """The answer in an output to either prompt: what its program prints, or what its text states."""
    source = find_program(output) if question.program_prompt is not None else None
    if source is None:
        return Answer(extract_answer(output, question.answer_type))
    done = run(source)
    printed = extract_printed_answer(done.output, question.answer_type) if done.outcome == "finished" else None
    return Answer(printed, program=True, error=done.error)
