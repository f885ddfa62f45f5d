"""Formats, guesses and ids of examples, against rows written by hand and real ones."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_ray.core.data.examples import (
    FORMAT_FIELDS,
    FORMATS,
    BadRow,
    Example,
    Turn,
    example_id,
    guess_format,
    prompt_text,
    response_text,
)


def test_alpaca_writes_the_published_template_with_and_without_input() -> None:
    plain = FORMATS["alpaca"]({"instruction": "Add 2 and {3}.", "output": "5"}, {})
    assert plain.turns == (
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
        assert FORMATS["alpaca"]({"instruction": "Add 2 and {3}.", "input": empty, "output": "5"}, {}) == plain


def test_mapped_fields_are_taken_and_the_usual_ones_left() -> None:
    row = {"question": "2+3?", "response": "wrong", "answer": "5"}
    example = FORMATS["prompt_response"](row, {"prompt": "question", "response": "answer"})
    assert (prompt_text(example), response_text(example)) == ("2+3?", "5")
    with pytest.raises(BadRow, match="no field 'reply'"):
        FORMATS["prompt_response"](row, {"prompt": "question", "response": "reply"})


def test_chats_of_both_kinds_give_the_same_turns_up_to_the_last_answer() -> None:
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


BAD_ROWS: list[tuple[str, dict[str, Any], str]] = [
    ("alpaca", {"instruction": "a"}, "missing_field"),
    ("alpaca", {"instruction": "a", "output": None}, "missing_field"),
    ("alpaca", {"output": "a"}, "missing_field"),
    ("alpaca", {"instruction": "a", "output": " \n"}, "empty_response"),
    ("alpaca", {"instruction": "a", "output": 5}, "bad_type"),
    ("alpaca", {"instruction": ["a"], "output": "b"}, "bad_type"),
    ("alpaca", {"instruction": "a", "input": {}, "output": "b"}, "bad_type"),
    ("prompt_response", {"prompt": True, "response": "b"}, "bad_type"),
    ("prompt_response", {"prompt": "a", "response": float("nan")}, "bad_type"),
    ("sharegpt", {"conversations": "hello"}, "bad_type"),
    ("sharegpt", {"conversations": ["hello"]}, "bad_type"),
    ("sharegpt", {"conversations": []}, "empty_response"),
    ("sharegpt", {"conversations": [{"from": "human", "value": "a"}]}, "empty_response"),
    ("sharegpt", {"conversations": [{"from": "gpt", "value": "a"}]}, "bad_role"),
    ("messages", {}, "missing_field"),
    ("messages", {"messages": [{"role": "user"}]}, "missing_field"),
    ("messages", {"messages": [{"role": "robot", "content": "a"}]}, "bad_role"),
    (
        "messages",
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]},
        "empty_response",
    ),
]


@pytest.mark.parametrize(("name", "row", "reason"), BAD_ROWS)
def test_a_row_that_is_no_example_says_why(name: str, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        FORMATS[name](row, {})
    assert caught.value.reason == reason
    assert caught.value.detail


def test_every_format_names_the_fields_it_maps() -> None:
    assert FORMAT_FIELDS.keys() == FORMATS.keys()


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
        ({"text": "a"}, None),
        ({}, None),
    ],
)
def test_the_guess_reads_the_row_it_was_made_from(
    row: dict[str, Any], expected: tuple[str, dict[str, str]] | None
) -> None:
    guess = guess_format(row)
    assert guess == expected
    if guess is not None:
        FORMATS[guess[0]](row, guess[1])


def test_real_rows_of_every_file_are_guessed_and_read(shared_data: Path) -> None:
    for path in sorted((shared_data / "train").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            row = json.loads(next(lines))
        assert guess_format(row) == ("alpaca", {}), path
        example = FORMATS["alpaca"](row, {})
        assert row["instruction"] in prompt_text(example)
        assert response_text(example) == row["response"]


TURNS = st.lists(
    st.builds(Turn, st.sampled_from(["user", "assistant"]), st.text(alphabet="a1 \né", max_size=4)),
    min_size=1,
    max_size=3,
)


@given(TURNS, TURNS)
def test_ids_are_equal_exactly_where_the_turns_are(left: list[Turn], right: list[Turn]) -> None:
    ids = example_id(Example(tuple(left))), example_id(Example(tuple(right)))
    assert (ids[0] == ids[1]) == (left == right)
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in ids)


def test_the_id_does_not_depend_on_where_the_text_came_from() -> None:
    alpaca = FORMATS["alpaca"]({"instruction": "a", "output": "b", "id": 7, "source": "x"}, {})
    pair = FORMATS["prompt_response"]({"prompt": alpaca.turns[0].text, "response": "b"}, {})
    assert example_id(alpaca) == example_id(pair)
