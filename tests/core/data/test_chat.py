"""Turns in the forms in which data sets store chats."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.core.data.chat import without_null_keys
from s2l_ray.core.data.examples import guess_format, read_row
from s2l_ray.core.data.turns import Example, RejectedRow, example_id

Row = dict[str, Any]
USER, ANSWER = {"role": "user", "content": "0?"}, {"role": "assistant", "content": "0."}
TURNS = [("user", "0?"), ("assistant", "0.")]


def read(row: Row, **options: Any) -> Example:
    return read_row(row, None, {}, **options).example


def texts(example: Example) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in example.turns]


def reason(row: Row) -> str:
    with pytest.raises(RejectedRow) as caught:
        read(row)
    return caught.value.reason


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ANSWER]},
        {"conversations": [USER, ANSWER]},
        {"conversation": [USER, ANSWER]},
        {"messages": json.dumps([USER, ANSWER])},
        {"conversations": json.dumps([{"from": "human", "value": "0?"}, {"from": "gpt", "value": "0."}])},
        {"conversations": {"from": ["human", "gpt"], "value": ["0?", "0."]}},
        {"messages": {"role": ["user", "assistant"], "content": ["0?", "0."]}},
        {"messages": [["user", "0?"], ["assistant", "0."]]},
        {"messages": [{"role": "Human", "content": "0?"}, {"role": " AI ", "content": "0."}]},
        {"messages": [USER, {"role": "model", "content": [{"type": "text", "text": "0"}, None, "."]}]},
        {"prompt": [USER], "completion": [ANSWER]},
        {"prompt": [USER], "completion": "0."},
        {"prompt": "0?", "chosen": [USER, ANSWER], "rejected": [USER, {"role": "assistant", "content": "1."}]},
        {"prompt": "0?", "chosen": [ANSWER], "rejected": []},
        {"chosen": [USER, ANSWER], "prompt": [USER]},
        {"messages": [USER, ANSWER, USER, {**ANSWER, "weight": 0}]},
        {"messages": [USER, ANSWER, None]},
        {"Messages": [USER, ANSWER]},
        {"chosen": [USER, ANSWER], "rejected": [USER, {"role": "assistant", "content": "1."}]},
        {"messages": [USER, {"role": "assistant", "content": [{"text": "0."}, {"type": "text", "text": None}]}]},
    ],
)
def test_every_form_has_the_same_turns(row: Row) -> None:
    example = read(row)
    assert texts(example) == TURNS
    assert example.chat and example.answers == [1]
    assert example_id(example) == example_id(read({"messages": [USER, ANSWER]}))


@pytest.mark.parametrize("field", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"trainable": False}])
def test_answers_may_be_context(field: Row) -> None:
    example = read({"messages": [USER, {**ANSWER, **field}, USER, {"role": "assistant", "content": "1."}]})
    assert example.answers == [3]
    assert reason({"messages": [USER, {**ANSWER, **field}]}) == "empty_response"
    learned = read({"messages": [USER, {**ANSWER, "weight": 1, "train": True}]})
    assert learned.answers == [1] and not learned.turns[1].fields


def test_a_leading_answer_is_context() -> None:
    example = read({"messages": [{"role": "assistant", "content": "Hello!"}, USER, ANSWER]})
    assert texts(example) == [("assistant", "Hello!"), *TURNS]
    assert example.answers == [2]


@pytest.mark.parametrize("name", ["system", "system_prompt"])
def test_the_system_prompt_of_a_row_is_the_first_turn(name: str) -> None:
    assert texts(read({name: "Be kind.", "messages": [USER, ANSWER]})) == [("system", "Be kind."), *TURNS]
    own = {"role": "developer", "content": "Be exact."}
    assert texts(read({name: "Be kind.", "messages": [own, USER, ANSWER]})) == [("system", "Be exact."), *TURNS]
    assert texts(read({name: None, "messages": [USER, ANSWER]})) == TURNS


def test_roles_of_the_job_come_first() -> None:
    row = {"messages": [{"role": "Doctor", "content": "0?"}, {"role": "patient", "content": "0."}]}
    assert reason(row) == "invalid_role"
    assert texts(read(row, roles={"Doctor": "user", "patient": "assistant"})) == TURNS


ARGUMENTS = {"a": 2, "b": None}
FUNCTION = {"name": "add", "arguments": ARGUMENTS}
CALLS = [{"type": "function", "function": FUNCTION}]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "assistant", "content": None, "tool_calls": CALLS},
        {"role": "assistant", "tool_calls": [{"function": {**FUNCTION, "arguments": json.dumps(ARGUMENTS)}}]},
        {"role": "assistant", "content": "", "tool_calls": json.dumps(CALLS), "name": None},
        {"role": "assistant", "content": "", "tool_calls": [FUNCTION]},
        {"role": "assistant", "function_call": {**FUNCTION, "arguments": json.dumps(ARGUMENTS)}},
        {"role": "function_call", "content": json.dumps(FUNCTION)},
        {"from": "function_call", "value": json.dumps([FUNCTION])},
    ],
)
@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS)])
def test_calls_of_tools_have_one_form(turn: Row, tools: object) -> None:
    result = {"role": "function", "content": "2"}
    example = read({"messages": [USER, turn, result, ANSWER], "tools": tools})
    assert [one.role for one in example.turns] == ["user", "assistant", "tool", "assistant"]
    assert example.turns[1].fields == {"tool_calls": CALLS}
    assert example.answers == [1, 3]
    assert example.tools == tuple(TOOLS)


def test_empty_tools_are_none_and_other_values_are_refused() -> None:
    for empty in (None, "", "[]", []):
        assert read({"messages": [USER, ANSWER], "tools": empty}).tools == ()
    assert reason({"messages": [USER, ANSWER], "tools": "a hammer"}) == "invalid_type"


def test_nulls_that_arrow_adds_are_removed() -> None:
    turn = {"role": "assistant", "content": "", "tool_calls": [{"id": None, **CALLS[0], "x": {"a": None, "b": [None]}}]}
    assert without_null_keys({"m": [turn], "n": None}) == {
        "m": [
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}, "x": {"b": [None]}}
                ],
            }
        ]
    }


@pytest.mark.parametrize(
    ("content", "text"), [({"sum": 5}, '{"sum": 5}'), ([1, 2], "[1, 2]"), (5, "5"), (None, ""), ("a", "a")]
)
def test_results_of_tools_are_text(content: object, text: str) -> None:
    example = read({"messages": [USER, {"role": "tool", "content": content, "name": "add"}, ANSWER]})
    assert example.turns[1].text == text


def test_a_placeholder_for_an_image_of_the_row_rejects_it() -> None:
    turns = [{"role": "user", "content": "<image> What is it?"}, ANSWER]
    assert reason({"messages": turns, "images": ["cat.png"]}) == "multimodal"
    assert texts(read({"messages": turns, "images": []}))[0] == ("user", "<image> What is it?")
    assert texts(read({"messages": [USER, ANSWER], "images": ["cat.png"]})) == TURNS


def test_reasoning_is_kept_and_is_an_answer() -> None:
    for name in ("reasoning_content", "thinking", "reasoning"):
        example = read({"messages": [USER, {"role": "assistant", "content": "", name: "Count."}]})
        assert example.turns[1].reasoning == "Count."
    part = {
        "role": "assistant",
        "content": [{"type": "thinking", "thinking": "Count."}, {"type": "text", "text": "0."}],
    }
    example = read({"messages": [USER, part]})
    assert (example.turns[1].reasoning, example.turns[1].text) == ("Count.", "0.")


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([USER, {"role": "assistant", "content": []}], "empty_response"),
        ([USER, {"role": "assistant", "content": None}], "missing_field"),
        ([USER, {**ANSWER, "content": {"a": 1}}], "multimodal"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ANSWER], "multimodal"),
        ([{"role": "user", "content": ["a", {"type": "audio"}]}, ANSWER], "multimodal"),
        ([{"role": "user", "content": [{"type": "image", "text": "a cat", "url": "x"}]}, ANSWER], "multimodal"),
        ([USER, {"role": 7, "content": "a"}], "invalid_type"),
        ([USER, "hello"], "invalid_type"),
        ([USER], "empty_response"),
    ],
)
def test_rejected_chats_have_a_reason_of_their_own(turns: list[object], expected: str) -> None:
    assert reason({"messages": turns}) == expected


def test_ids_depend_on_all_text_of_a_chat() -> None:
    rows: list[Row] = [
        {"messages": [USER, ANSWER]},
        {"messages": [USER, {**ANSWER, "reasoning_content": "Count."}]},
        {"messages": [USER, {**ANSWER, "tool_calls": CALLS}]},
        {"messages": [USER, ANSWER], "tools": TOOLS},
        {"messages": [USER, {**ANSWER, "weight": 0}, USER, ANSWER]},
        {"messages": [USER, ANSWER, USER, ANSWER]},
    ]
    assert len({example_id(read(row)) for row in rows}) == len(rows)
    assert example_id(read({"messages": [USER, {**ANSWER, "id": 7}]})) == example_id(read(rows[0]))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "from", "content", "value", "type", "text", "tool_calls", "function", "name"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
COLUMNS = ["messages", "conversations", "prompt", "response", "chosen", "tools", "system", "instruction", "history"]


@given(st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=5))
@settings(max_examples=100)
def test_any_row_is_an_example_or_rejected(row: Row) -> None:
    guess_format(row)
    try:
        example = read(row)
    except RejectedRow as rejected:
        assert rejected.reason and rejected.detail
        return
    assert example.answers
    assert len(example_id(example)) == 32
