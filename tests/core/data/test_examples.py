"""Formats, format detection and ids of examples, on handwritten and real rows."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_ray.core.data.examples import FORMATS, guess_format, read_row
from s2l_ray.core.data.turns import Example, RejectedRow, Turn, example_id, prompt_text, response_text


def test_alpaca_template_with_and_without_input() -> None:
    without_input = FORMATS["alpaca"]({"instruction": "Add 2 and {3}.", "output": "5"}, {})
    assert without_input.turns == (
        Turn(
            "prompt",
            "Below is an instruction that describes a task. Write a response that appropriately completes the "
            "request.\n\n### Instruction:\nAdd 2 and {3}.\n\n### Response:",
        ),
        Turn("response", "5"),
    )
    with_input = FORMATS["alpaca"]({"instruction": "Add.", "input": "2 3", "output": "5"}, {})
    assert with_input.turns[0].text == (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n2 3\n\n"
        "### Response:"
    )
    for empty in ("", "  ", None):
        assert FORMATS["alpaca"]({"instruction": "Add 2 and {3}.", "input": empty, "output": "5"}, {}) == without_input


def test_mapped_fields_replace_the_defaults() -> None:
    row = {"question": "2+3?", "response": "wrong", "answer": "5"}
    example = FORMATS["prompt_response"](row, {"prompt": "question", "response": "answer"})
    assert (prompt_text(example), response_text(example)) == ("2+3?", "5")
    with pytest.raises(RejectedRow, match="no field reply"):
        FORMATS["prompt_response"](row, {"prompt": "question", "response": "reply"})


def test_both_chat_formats_end_at_the_last_assistant_turn() -> None:
    messages = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "2+3?"), ("assistant", "5")]
    as_messages = {"messages": [{"role": role, "content": text} for role, text in [*messages, ("user", "Thanks")]]}
    names = {"user": "human", "assistant": "gpt"}
    as_sharegpt = {"conversations": [{"from": names.get(role, role), "value": text} for role, text in messages]}
    example = FORMATS["messages"](as_messages, {})
    assert example == FORMATS["sharegpt"](as_sharegpt, {})
    assert example.chat
    assert [(turn.role, turn.text) for turn in example.turns] == messages
    assert prompt_text(example) == "Be kind.\n\nHi\n\n2+3?"
    assert response_text(example) == "Hello\n\n5"


REJECTED_ROWS: list[tuple[str, dict[str, Any], str]] = [
    ("alpaca", {"instruction": "a"}, "missing_field"),
    ("alpaca", {"instruction": "a", "output": None}, "missing_field"),
    ("alpaca", {"output": "a"}, "missing_field"),
    ("alpaca", {"instruction": "a", "output": " \n"}, "empty_response"),
    ("alpaca", {"instruction": "a", "output": {"text": "b"}}, "invalid_type"),
    ("alpaca", {"instruction": ["a"], "output": "b"}, "invalid_type"),
    ("alpaca", {"instruction": "a", "input": {}, "output": "b"}, "invalid_type"),
    ("prompt_response", {"prompt": True, "response": "b"}, "invalid_type"),
    ("prompt_response", {"prompt": "a", "response": float("nan")}, "invalid_type"),
    ("sharegpt", {"conversations": "hello"}, "invalid_type"),
    ("sharegpt", {"conversations": ["hello"]}, "invalid_type"),
    ("sharegpt", {"conversations": []}, "empty_response"),
    ("sharegpt", {"conversations": [{"from": "human", "value": "a"}]}, "empty_response"),
    ("sharegpt", {"conversations": [{"from": "gpt", "value": "a"}]}, "empty_response"),
    ("messages", {}, "missing_field"),
    ("messages", {"messages": [{"role": "user"}]}, "missing_field"),
    ("messages", {"messages": [{"role": "robot", "content": "a"}]}, "invalid_role"),
    (
        "messages",
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]},
        "empty_response",
    ),
]


@pytest.mark.parametrize(("name", "row", "reason"), REJECTED_ROWS)
def test_rejected_rows_have_a_reason(name: str, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(RejectedRow) as caught:
        FORMATS[name](row, {})
    assert caught.value.reason == reason
    assert caught.value.detail


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "a", "input": "", "output": "b"}, ("alpaca", {})),
        ({"id": "1", "instruction": "a", "input": "", "response": "b", "answer": "c"}, ("alpaca", {})),
        ({"instruction": "a", "answer": "b"}, ("alpaca", {"response": "answer"})),
        ({"prompt": "a", "completion": "b"}, ("prompt_response", {"response": "completion"})),
        ({"question": "a", "answer": "b"}, ("prompt_response", {"prompt": "question", "response": "answer"})),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, ("sharegpt", {})),
        (
            {"conversations": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            ("messages", {"messages": "conversations"}),
        ),
        ({"Question": "a", "Response": "b"}, ("prompt_response", {"prompt": "Question", "response": "Response"})),
        ({"inputs": "a", "targets": "b"}, ("prompt_response", {"prompt": "inputs", "response": "targets"})),
        ({"instruction": "a", "output": "b", "turns": [{"role": "user", "content": None}]}, ("alpaca", {})),
        ({"text": "a"}, None),
        ({}, None),
    ],
)
def test_guessed_format_reads_the_row(row: dict[str, Any], expected: tuple[str, dict[str, str]] | None) -> None:
    guess = guess_format(row)
    assert guess == expected
    if guess is not None:
        FORMATS[guess[0]](row, guess[1])


def test_format_of_real_rows_is_guessed(shared_data: Path) -> None:
    for path in sorted((shared_data / "train").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            row = json.loads(next(lines))
        assert guess_format(row) == ("alpaca", {}), path
        example = FORMATS["alpaca"](row, {})
        assert row["instruction"] in prompt_text(example)
        assert response_text(example) == row["response"]


@pytest.mark.parametrize(
    ("row", "prompt", "response"),
    [
        (
            {"instruction": "Sum up.", "context": "Cats sleep.", "response": "Sleep."},
            ["Sum up.", "Cats sleep."],
            "Sleep.",
        ),
        ({"system_prompt": "Be brief.", "question": "1+1?", "response": "2"}, ["Be brief.", "1+1?"], "2"),
        ({"context": "Cats sleep.", "question": "Who?", "answer": "Cats"}, ["Cats sleep.", "Who?"], "Cats"),
        ({"question": "1+1?", "answer": "2", "rationale": "Count on."}, ["1+1?"], "Count on.\n\n2"),
        (
            {"instruction": "Times 2?", "output": "8", "system": "Calculate.", "history": [["2+2?", "4"]]},
            ["Calculate.", "2+2?", "4", "Times 2?"],
            "8",
        ),
        ({"prompt": "1+1?", "chosen": "2", "rejected": "3"}, ["1+1?"], "2"),
    ],
)
def test_usual_columns_are_read_in_their_order(row: dict[str, Any], prompt: list[str], response: str) -> None:
    example = read_row(row, None, {}).example
    assert response_text(example) == response
    found = [prompt_text(example).find(text) for text in prompt]
    assert found == sorted(found) and found[0] >= 0


@pytest.mark.parametrize(
    ("answer", "text"), [(1, "1"), (2.5, "2.5"), (True, "true"), ("four", "four"), (["five"], "five"), (0, "0")]
)
def test_scalars_are_answers(answer: object, text: str) -> None:
    assert response_text(read_row({"question": "1?", "answer": answer}, None, {}).example) == text


@pytest.mark.parametrize("answer", [["5", "five"], {"text": "six"}, [], float("inf"), None])
def test_other_values_are_no_answers(answer: object) -> None:
    with pytest.raises(RejectedRow):
        read_row({"question": "1?", "answer": answer}, None, {})


def test_nested_fields_are_mapped_by_dots() -> None:
    row = {"data": {"q": "1+1?", "x.y": {"a": 2}}, "data.z": "unused"}
    example = FORMATS["prompt_response"](row, {"prompt": "data.q", "response": "data.z"})
    assert (prompt_text(example), response_text(example)) == ("1+1?", "unused")
    with pytest.raises(RejectedRow, match="missing_field"):
        FORMATS["prompt_response"](row, {"prompt": "data.q", "response": "data.none.deep"})


TURNS = st.lists(
    st.builds(Turn, st.sampled_from(["user", "assistant"]), st.text(alphabet="a1 \né", max_size=4)),
    min_size=1,
    max_size=3,
)


@given(TURNS, TURNS)
def test_ids_are_equal_if_and_only_if_turns_are(left: list[Turn], right: list[Turn]) -> None:
    ids = example_id(Example(tuple(left))), example_id(Example(tuple(right)))
    assert (ids[0] == ids[1]) == (left == right)
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in ids)


def test_id_depends_on_the_turns_only() -> None:
    alpaca = FORMATS["alpaca"]({"instruction": "a", "output": "b", "id": 7, "source": "x"}, {})
    pair = FORMATS["prompt_response"]({"prompt": alpaca.turns[0].text, "response": "b"}, {})
    assert example_id(alpaca) == example_id(pair)


def test_history_is_read_as_a_list_and_as_json_text() -> None:
    row = {"instruction": "c", "output": "d"}
    listed = read_row({**row, "history": [["a", "b"]]}, None, {}).example
    assert read_row({**row, "history": '[["a", "b"]]'}, None, {}).example == listed
    for empty in ("", "[]", [], None):
        assert read_row({**row, "history": empty}, None, {}).example == read_row(row, None, {}).example
    with pytest.raises(RejectedRow, match="history"):
        read_row({**row, "history": "a b"}, None, {})


def test_a_system_prompt_beside_a_system_turn_is_reported_as_not_read() -> None:
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant")]
    row = {"messages": turns, "system_prompt": "another text of several words"}
    assert read_row(row, None, {}).unread == ["system_prompt"]
    assert read_row({**row, "messages": turns[1:]}, None, {}).unread == []


@pytest.mark.parametrize("mapped", [{"response": "answer"}, {"output": "answer"}])
@pytest.mark.parametrize("context", [{"input": "background"}, {"context": "background"}])
def test_each_name_of_a_field_can_be_mapped(mapped: dict[str, str], context: dict[str, str]) -> None:
    row = {"instruction": "a", "answer": "b", "output": "wrong", "background": "c", "input": "wrong"}
    expected = FORMATS["alpaca"]({"instruction": "a", "input": "c", "output": "b"}, {})
    assert FORMATS["alpaca"](row, {**mapped, **context}) == expected
