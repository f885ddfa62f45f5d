"""Questions of the tasks, and answers in outputs, with a sandbox that returns what the test decides."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from s2l_ray.core.data.examples import ALPACA, ALPACA_WITH_INPUT
from s2l_ray.core.evaluation.answers import answers_equal
from s2l_ray.core.evaluation.generation import Output, Prompt
from s2l_ray.core.evaluation.metrics import METRICS
from s2l_ray.core.evaluation.sandbox import ProgramRun
from s2l_ray.core.evaluation.tasks import PROGRAM_REQUEST, TASKS, Answer, Task, answer_from_output, ask, make_question

GSM8K = {"question": "How many eggs?", "answer": "1,018"}


def never(source: str) -> ProgramRun:
    raise AssertionError(f"{source!r} was run")


def test_a_question_has_a_prompt_for_text_and_one_for_a_program() -> None:
    question = make_question(TASKS["gsm8k"], GSM8K)
    assert question.prompt == ALPACA.format(instruction="How many eggs?")
    assert question.program_prompt == ALPACA.format(instruction="How many eggs?" + PROGRAM_REQUEST)
    assert (question.reference, question.answer_type) == ("1,018", "number")


def test_a_task_of_a_job_maps_fields() -> None:
    task = Task("{q}\nOptions: {options}", "{passage}", "key", programs=False)
    question = make_question(task, {"q": "Which?", "options": "A or B", "passage": "A tree.", "key": "B"})
    assert question.prompt == ALPACA_WITH_INPUT.format(instruction="Which?\nOptions: A or B", input="A tree.")
    assert (question.program_prompt, question.reference, question.answer_type) == (None, "B", "choice")


@pytest.mark.parametrize(
    ("name", "reference", "answer"),
    [
        ("gsm8k", "She sells 16 - 7 = <<16-7=9>>9 eggs.\n#### 1,018", "1,018"),
        ("math", r"So $x = 4$ or \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ("gsm8k", 51.0, "51"),
        ("clinical_summary", "#### IMPRESSION #### clear", "#### IMPRESSION #### clear"),
    ],
)
def test_a_reference_can_be_a_worked_solution(name: str, reference: object, answer: str) -> None:
    row = {"question": "?", "answer": reference, "instruction": "?", "input": "", "response": reference}
    assert make_question(TASKS[name], row).reference == answer


@pytest.mark.parametrize(
    "row",
    [
        {"answer": "3"},
        {"question": "How many?"},
        {"question": "?", "answer": ["3"]},
        {"question": None, "answer": "3"},
        {"question": " ", "answer": "3"},
        {"question": "?", "answer": None},
        {"question": "?", "answer": float("nan")},
    ],
)
def test_a_row_without_the_fields_of_its_task_is_refused(row: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        make_question(TASKS["gsm8k"], row)


def test_a_null_input_is_empty() -> None:
    row = {"instruction": "Summarize.", "input": None, "response": "clear"}
    assert make_question(TASKS["clinical_summary"], row) == make_question(
        TASKS["clinical_summary"], row | {"input": ""}
    )


@pytest.mark.parametrize("instruction", ["{choices[2]}", "{choices.first}"])
def test_a_template_that_does_not_fit_a_row_is_refused(instruction: str) -> None:
    with pytest.raises(ValueError, match="choices"):
        make_question(Task(instruction), {"choices": ["a", "b"], "answer": "3"})


@pytest.mark.parametrize(
    ("output", "done", "answer"),
    [
        ("The answer is 18", None, Answer("18")),
        ("I do not know", None, Answer(None)),
        ("print(9 * 2)", ProgramRun("finished", "18\n"), Answer("18", "print(9 * 2)")),
        ("print()", ProgramRun("finished", "\n"), Answer(None, "print()")),
        # blocks in which the model states what its program prints
        (
            "```python3\nprint(18)\n```\n```output\n18\n```\nThe answer is 9.",
            ProgramRun("finished", "18\n"),
            Answer("18", "print(18)\n"),
        ),
        (
            "```python\nprint(18)\n```\nOutput:\n```\n18 eggs\n```\n",
            ProgramRun("finished", "18\n"),
            Answer("18", "print(18)\n"),
        ),
        ("```json\n{}\n```\nThe answer is 9.", None, Answer("9")),
        ("print(1 / 0)", ProgramRun("failed", "7\n", "by zero"), Answer(None, "print(1 / 0)", error="by zero")),
        (
            "while 1: print(7)",
            ProgramRun("deadline", "7\n", "deadline"),
            Answer(None, "while 1: print(7)", error="deadline"),
        ),
    ],
)
def test_answers_in_outputs(output: str, done: ProgramRun | None, answer: Answer) -> None:
    question = make_question(TASKS["gsm8k"], GSM8K)
    assert answer_from_output(question, output, never if done is None else lambda source: done) == answer


def test_a_question_is_asked_for_text_where_its_program_yields_no_answer() -> None:
    rows = [{"question": f"Question {number}?", "answer": "7"} for number in range(4)]
    questions = [make_question(TASKS["gsm8k"], row) for row in rows]
    to_program = ["print(7)", "print(1 / 0)", "It is hard", "The answer is 9"]
    to_text = {questions[1].prompt: "The answer is 7", questions[2].prompt: "Indeed"}
    runs = {"print(7)": ProgramRun("finished", "7"), "print(1 / 0)": ProgramRun("failed", "", "by zero")}
    asked: list[Prompt] = []

    def generate(prompts: Sequence[Prompt]) -> list[Output]:
        asked.extend(prompts)
        texts = [to_text[prompt.text] for prompt in prompts] if len(asked) > 4 else to_program
        return [Output(text, len(text)) for text in texts]

    responses = ask(questions, [10, 20, 30, 40], generate, lambda source: runs[source])
    assert [(prompt.text, prompt.seed) for prompt in asked] == [
        *((str(question.program_prompt), 10 * at) for at, question in enumerate(questions, 1)),
        (questions[1].prompt, 21),
        (questions[2].prompt, 31),
    ]
    assert [response.answer for response in responses] == [
        Answer("7", "print(7)"),
        Answer("7", error="by zero"),
        Answer(None),
        Answer("9"),
    ]
    outputs = [(response.output.text, response.earlier and response.earlier.text) for response in responses]
    assert outputs == [
        ("print(7)", None),
        ("The answer is 7", "print(1 / 0)"),
        ("Indeed", "It is hard"),
        ("The answer is 9", None),
    ]


def test_a_program_is_text_where_a_task_asks_for_none() -> None:
    question = make_question(TASKS["clinical_summary"], {"instruction": "?", "input": "", "response": "clear"})
    assert answer_from_output(question, "print(1)", never) == Answer("print(1)")


def test_metrics_of_all_tasks_exist() -> None:
    assert {name for task in TASKS.values() for name in task.metrics} <= set(METRICS)


@pytest.mark.parametrize("name", ["gsm8k", "math", "numglue", "svamp", "mathematics", "simuleq", "mts_dialog_test1"])
def test_every_reference_of_the_real_sets_equals_itself(name: str, shared_data: Path) -> None:
    pytest.importorskip("math_verify")
    task = TASKS.get(name, TASKS["clinical_summary"])
    with gzip.open(shared_data / "eval" / f"{name}.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    for row in rows:
        question = make_question(task, row)
        stated = question.reference if question.answer_type == "text" else f"The answer is {question.reference}"
        answer = answer_from_output(question, stated, never)
        assert answer.text is not None and answers_equal(answer.text, question.reference, question.answer_type), row
