"""Conversion of raw rows to examples: pairs of a prompt and a response, or chats.

A format is one function and one row of `FORMATS`. Its argument `fields` maps field names of the format to field names
of the row, `roles` names of roles in the row to roles.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from s2l_ray.core.clinical_notes import CATEGORY, read_radiology_note
from s2l_ray.core.data.chat import SYSTEM_NAMES, chat_example, decode_json, is_chat, read_turns, turn_list
from s2l_ray.core.data.columns import TrackedRow
from s2l_ray.core.data.segments import check_characters
from s2l_ray.core.data.turns import (
    ANSWERS,
    Example,
    Fields,
    RejectedRow,
    Row,
    Turn,
    as_text,
    find_value,
    read_answer,
    read_field,
)

Roles = Mapping[str, str]
NO_ROLES: Roles = MappingProxyType({})

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Response:"
)
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
RADIOLOGY_INSTRUCTION = "Summarize the findings of this radiology report as an impression."
# the text of both templates around instruction and input
_ALPACA_PIECES = re.compile(
    "|".join(re.escape(piece) for text in (ALPACA_WITH_INPUT, ALPACA) for piece in re.split(r"\{\w+\}", text))
)
CHAT_NAMES = ("messages", "conversations", "conversation", "turns", "dialog")
PROMPT_NAMES = ("prompt", "question", "query", "problem", "input", "inputs")
RESPONSE_NAMES = ("response", "output", "completion", "answer", "solution", "target", "targets", "chosen")
RATIONALE_NAMES = ("rationale", "reasoning")


class Format(Protocol):
    """The example in a row. Raises RejectedRow."""

    def __call__(self, row: Row, fields: Fields, roles: Roles = NO_ROLES) -> Example: ...


def read_alpaca(row: Row, fields: Fields, roles: Roles = NO_ROLES) -> Example:
    """Fields instruction, input (optional) and response (or output), formatted by the Alpaca template.

    Earlier turns (`history`, pairs of an instruction and a response) and the system prompt precede the prompt.
    """
    instruction = read_field(row, fields, str, "instruction")
    response = read_answer(row, fields, "response", "output")
    context = read_field(row, fields, str, "input", "context", default="")
    earlier = [f"{_alpaca(first)}\n{second}" for first, second in _history(row, fields)]
    return _pair([_system(row, fields), *earlier, _alpaca(instruction, context)], response)


def read_prompt_response(row: Row, fields: Fields, roles: Roles = NO_ROLES) -> Example:
    """Fields prompt and response (or completion), unchanged; a chat if either is a list of turns.

    The system prompt and the context precede the prompt, the rationale the response, each with an empty line.
    """
    prompt = find_value(row, fields, "prompt")[1]
    response = find_value(row, fields, "response", "completion")[1]
    if (isinstance(response, list) and is_chat(response)) or (isinstance(prompt, list) and is_chat(prompt)):
        return chat_example(_joined_turns(prompt, response, fields, roles), row, fields)
    parts = [_system(row, fields), read_field(row, fields, str, "context", default="")]
    rationale = as_text(find_value(row, fields, *RATIONALE_NAMES)[1])
    answer = read_answer(row, fields, "response", "completion")
    response_parts = [rationale, answer] if rationale and rationale.strip() else [answer]
    return _pair([*parts, read_field(row, fields, str, "prompt")], "\n\n".join(response_parts))


def read_sharegpt(row: Row, fields: Fields, roles: Roles = NO_ROLES) -> Example:
    """Field conversations: a list of {from, value}."""
    return _chat(row, fields, roles, "conversations")


def read_messages(row: Row, fields: Fields, roles: Roles = NO_ROLES) -> Example:
    """Field messages: a list of {role, content}."""
    return _chat(row, fields, roles, "messages")


def read_radiology(row: Row, fields: Fields, roles: Roles = NO_ROLES) -> Example:
    """Fields CATEGORY, ISERROR and TEXT of a radiology note of MIMIC-III: from its findings to its impression."""
    category = as_text(find_value(row, fields, "CATEGORY")[1]) or ""
    if category.strip().lower() != CATEGORY:
        raise RejectedRow("not_radiology", f"a note of the category {category.strip() or 'none'}")
    if (as_text(find_value(row, fields, "ISERROR")[1]) or "").strip() in ("1", "1.0"):
        raise RejectedRow("marked_as_error", "ISERROR is 1")
    text = read_field(row, fields, str, "TEXT")
    if not text.strip():
        raise RejectedRow("missing_field", "TEXT is empty")
    note = read_radiology_note(text)
    return _pair([_alpaca(RADIOLOGY_INSTRUCTION, note.findings)], note.impression)


FORMATS: dict[str, Format] = {
    "alpaca": read_alpaca,
    "prompt_response": read_prompt_response,
    "sharegpt": read_sharegpt,
    "messages": read_messages,
    "radiology": read_radiology,
}


def guess_format(row: Row) -> tuple[str, dict[str, str]] | None:
    """The format of a row and the field mapping it needs, or None if no format fits. Columns match in any case."""
    columns = {name.lower(): name for name in reversed(list(row)) if row[name] is not None}
    return _guess_chat(row, columns, CHAT_NAMES) or _guess_pair(row, columns) or _guess_chat(row, columns, ("chosen",))


def _guess_chat(row: Row, columns: Mapping[str, str], names: Sequence[str]) -> tuple[str, dict[str, str]] | None:
    for column in (columns[name] for name in names if name in columns):
        if is_chat(row[column]):
            first = (turn_list(row[column]) or [None])[0]
            style = "sharegpt" if isinstance(first, Mapping) and "from" in first else "messages"
            own = "conversations" if style == "sharegpt" else "messages"
            return style, {} if column == own else {own: column}
    return None


def _guess_pair(row: Row, columns: Mapping[str, str]) -> tuple[str, dict[str, str]] | None:
    """A response that is a text or a chat counts before one of another type."""
    present = [columns[name] for name in RESPONSE_NAMES if name in columns]
    texts = [column for column in present if as_text(row[column]) is not None or is_chat(row[column])]
    instruction = columns.get("instruction", "")
    for response in [*texts, *present]:
        if isinstance(row.get(instruction), str):
            pair = {"instruction": instruction, "response": "response" if response == "output" else response}
            return "alpaca", {name: column for name, column in pair.items() if name != column}
        for prompt in (columns[name] for name in PROMPT_NAMES if name in columns):
            if prompt != response and (isinstance(row[prompt], str) or is_chat(row[prompt])):
                pair = {"prompt": prompt, "response": response}
                return "prompt_response", {name: column for name, column in pair.items() if name != column}
    return None


def chat_up_to(example: Example, answer: int) -> Row:
    """The chat as a row of the format `messages` that ends with a learned answer, in which earlier ones are context."""
    turns = example.turns[: example.answers[answer] + 1]
    messages = [
        {"role": turn.role, "content": turn.text, **turn.fields}
        | ({"weight": 0} if turn.role == "assistant" and position < len(turns) - 1 else {})
        for position, turn in enumerate(turns)
    ]
    return {"messages": messages, **({"tools": list(example.tools)} if example.tools else {})}


@dataclass(frozen=True)
class ReadRow:
    """The example in a row, the format and the field mapping that were used, and the columns with unread text."""

    example: Example
    format: str
    fields: Fields
    unread: list[str]


def read_row(row: Row, name: str | None, fields: Fields, roles: Roles = NO_ROLES) -> ReadRow:
    """Read a row of format `name`, which is guessed if it is None. Raises RejectedRow."""
    if name is None:
        guess = guess_format(row)
        if guess is None:
            raise RejectedRow("missing_field", f"no known format has the fields {', '.join(list(row)[:8])}")
        name, fields = guess[0], {**guess[1], **fields}
    tracked = TrackedRow(row)
    example = FORMATS[name](tracked, fields, roles)
    check_characters(example)
    return ReadRow(example, name, fields, tracked.unread_texts())


def question_texts(example: Example) -> list[str]:
    """Texts that could repeat the question of an evaluation set: each turn that is not by the assistant.

    Of a prompt in the Alpaca template these are its parts, such as instruction and input, and all parts together.
    """
    texts = [turn.text for turn in example.turns if turn.role not in ANSWERS]
    return [part for text in texts for part in _without_template(text)]


def _without_template(prompt: str) -> list[str]:
    parts = [part for part in _ALPACA_PIECES.split(prompt) if part.strip()]
    return ["\n".join(parts), *parts] if len(parts) > 1 else parts


def _pair(prompt: list[str], response: str) -> Example:
    if not response.strip():
        raise RejectedRow("empty_response", "the response is empty")
    parts = [part for part in prompt[:-1] if part.strip()]
    return Example((Turn("prompt", "\n\n".join([*parts, prompt[-1]])), Turn("response", response)))


def _alpaca(instruction: str, context: str = "") -> str:
    template = ALPACA_WITH_INPUT if context.strip() else ALPACA
    return template.format(instruction=instruction, input=context)


def _system(row: Row, fields: Fields) -> str:
    return as_text(find_value(row, fields, *SYSTEM_NAMES)[1]) or ""


def _history(row: Row, fields: Fields) -> Iterator[tuple[str, str]]:
    """Earlier pairs of an instruction and a response: a list, or JSON text of one."""
    name, value = find_value(row, fields, "history")
    value = decode_json(value) or []
    for pair in value if isinstance(value, list) else [value]:
        first, second = pair if isinstance(pair, list | tuple) and len(pair) == 2 else (None, None)
        if not isinstance(first, str) or not isinstance(second, str):
            raise RejectedRow("invalid_type", f"field {name} is not a list of pairs of an instruction and a response")
        yield first, second


def _joined_turns(prompt: object, response: object, fields: Fields, roles: Roles) -> list[Turn]:
    """The turns of the prompt and those of the response, which may repeat those of the prompt."""
    first = read_turns(prompt, fields, roles) if is_chat(prompt) else [Turn("user", as_text(prompt) or "")]
    last = read_turns(response, fields, roles) if is_chat(response) else [Turn("assistant", as_text(response) or "")]
    if any(turn.role == "user" for turn in last):
        first = [turn for turn in first if turn.role == "system" and last[0].role != "system"]
    return [*first, *last]


def _chat(row: Row, fields: Fields, roles: Roles, name: str) -> Example:
    found, value = find_value(row, fields, name)
    if value is None:
        raise RejectedRow("missing_field", f"no field {found}")
    return chat_example(read_turns(value, fields, roles), row, fields)
