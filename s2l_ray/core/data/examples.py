"""Conversion of raw rows to examples (prompt and response, or chat turns) and their ids.

A format is one function and one row of `FORMATS`. Its argument `fields` maps field names of the format to field names
of the row.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import xxhash

Role = Literal["prompt", "response", "system", "user", "assistant"]
Row = Mapping[str, object]
Fields = Mapping[str, str]

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Response:"
)
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
MESSAGE_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
SHAREGPT_ROLES: dict[str, Role] = {**MESSAGE_ROLES, "human": "user", "gpt": "assistant", "chatgpt": "assistant"}
JSON_TYPES = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}

T = TypeVar("T")


class RejectedRow(ValueError):
    """A row that is not an example. reason: missing_field, invalid_type, invalid_role or empty_response."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Turn:
    """One turn of an example: the role of its author and the text."""

    role: Role
    text: str


@dataclass(frozen=True)
class Example:
    """The turns of one row: a prompt and its response, or a chat that ends with a turn of the assistant."""

    turns: tuple[Turn, ...]

    @property
    def chat(self) -> bool:
        """Whether the turns are a chat, to be formatted by the tokenizer's chat template."""
        return self.turns[0].role != "prompt"


def read_alpaca(row: Row, fields: Fields) -> Example:
    """Fields instruction, input (optional) and response (or output), formatted by the Alpaca template."""
    instruction = _field(row, fields, str, "instruction")
    response = _field(row, fields, str, "response", "output")
    context = _field(row, fields, str, "input", default="")
    template = ALPACA_WITH_INPUT if context.strip() else ALPACA
    return _pair(template.format(instruction=instruction, input=context), response)


def read_prompt_response(row: Row, fields: Fields) -> Example:
    """Fields prompt and response (or completion), unchanged."""
    return _pair(_field(row, fields, str, "prompt"), _field(row, fields, str, "response", "completion"))


def read_sharegpt(row: Row, fields: Fields) -> Example:
    """Field conversations: a list of {from, value}."""
    return _chat(row, fields, ("conversations", "from", "value"), SHAREGPT_ROLES)


def read_messages(row: Row, fields: Fields) -> Example:
    """Field messages: a list of {role, content}."""
    return _chat(row, fields, ("messages", "role", "content"), MESSAGE_ROLES)


FORMATS: dict[str, Callable[[Row, Fields], Example]] = {
    "alpaca": read_alpaca,
    "prompt_response": read_prompt_response,
    "sharegpt": read_sharegpt,
    "messages": read_messages,
}

CHAT_CANDIDATES: tuple[tuple[str, Fields], ...] = (
    ("messages", {}),
    ("sharegpt", {}),
    ("messages", {"messages": "conversations"}),
    ("sharegpt", {"conversations": "messages"}),
)
PROMPT_NAMES = ("prompt", "question", "query", "problem", "input")
RESPONSE_NAMES = ("response", "output", "completion", "answer", "solution", "target")


def guess_format(row: Row) -> tuple[str, dict[str, str]] | None:
    """The format of a row and the field mapping it needs, or None if no format fits."""
    for name, fields in CHAT_CANDIDATES:
        with contextlib.suppress(RejectedRow):
            FORMATS[name](row, fields)
            return name, dict(fields)
    responses = [name for name in RESPONSE_NAMES if isinstance(row.get(name), str)]
    prompts = [name for name in PROMPT_NAMES if isinstance(row.get(name), str)]
    for response in responses:
        if isinstance(row.get("instruction"), str):
            return "alpaca", {} if response in ("response", "output") else {"response": response}
        for prompt in prompts:
            if prompt != response:
                pair = {"prompt": prompt, "response": response}
                return "prompt_response", {name: value for name, value in pair.items() if name != value}
    return None


def example_id(example: Example) -> str:
    """32 hex digits: xxh3-128 of the roles and texts of the turns only."""
    digest = xxhash.xxh3_128()
    for turn in example.turns:
        text = turn.text.encode()
        digest.update(f"{turn.role} {len(text)}\n".encode())
        digest.update(text)
    return digest.hexdigest()


def prompt_text(example: Example) -> str:
    """The prompt, or all turns of a chat that are not by the assistant, for display."""
    return "\n\n".join(turn.text for turn in example.turns if turn.role not in ("response", "assistant"))


def response_text(example: Example) -> str:
    """The response, or all turns of a chat by the assistant, for display."""
    return "\n\n".join(turn.text for turn in example.turns if turn.role in ("response", "assistant"))


def _pair(prompt: str, response: str) -> Example:
    if not response.strip():
        raise RejectedRow("empty_response", "the response is empty")
    return Example((Turn("prompt", prompt), Turn("response", response)))


def _chat(row: Row, fields: Fields, names: tuple[str, str, str], roles: Mapping[str, Role]) -> Example:
    """A chat up to its last turn by the assistant; later turns have no target."""
    list_name, role_name, text_name = names
    messages = _field(row, fields, list, list_name)
    turns = [_turn(message, fields, role_name, text_name, roles) for message in messages]
    answers = [position for position, turn in enumerate(turns) if turn.role == "assistant"]
    if not answers:
        raise RejectedRow("empty_response", "no turn by the assistant")
    if answers[0] == 0:
        raise RejectedRow("invalid_role", "the chat begins with a turn by the assistant")
    if any(not turns[position].text.strip() for position in answers):
        raise RejectedRow("empty_response", "a turn by the assistant is empty")
    return Example(tuple(turns[: answers[-1] + 1]))


def _turn(message: object, fields: Fields, role_name: str, text_name: str, roles: Mapping[str, Role]) -> Turn:
    if not isinstance(message, dict):
        raise RejectedRow("invalid_type", f"a turn is of type {_json_type(message)}, not object")
    role = _field(message, fields, str, role_name)
    if role not in roles:
        raise RejectedRow("invalid_role", f"role {role!r} is not one of {', '.join(roles)}")
    return Turn(roles[role], _field(message, fields, str, text_name))


def _field(row: Row, fields: Fields, kind: type[T], *names: str, default: T | None = None) -> T:
    """Value of the first of `names` that is in the row; null counts as missing. A mapped field has one name.

    Raises RejectedRow if there is none and no default, or if the value is not of type `kind`.
    """
    names = (fields[names[0]],) if names[0] in fields else names
    value = next((row[name] for name in names if row.get(name) is not None), default)
    if value is None:
        raise RejectedRow("missing_field", f"no field {' or '.join(map(repr, names))}")
    if not isinstance(value, kind):
        raise RejectedRow("invalid_type", f"field {names[0]!r} is of type {_json_type(value)}, not {JSON_TYPES[kind]}")
    return value


def _json_type(value: object) -> str:
    return JSON_TYPES.get(type(value), type(value).__name__)
