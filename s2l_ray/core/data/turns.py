"""Examples as turns: a prompt and its response, or a chat with every field that its template may read."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import xxhash

Role = Literal["prompt", "response", "system", "user", "assistant", "tool"]
Row = Mapping[str, object]
# Names of fields in a format, mapped to names in the row; a dot separates the names of nested fields.
Fields = Mapping[str, str]

ANSWERS = ("response", "assistant")
REASONING = ("reasoning_content", "thinking", "reasoning")
# Fields of a turn that are text of the example, besides its content; ids and timestamps are not.
_IDENTITY = (*REASONING, "tool_calls", "name")
_JSON_TYPES = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}

T = TypeVar("T")


TEMPLATE = "template"
LONGEST_MESSAGE = 100


class RejectedRow(ValueError):
    """A row that is not an example. reason: a short constant such as missing_field, or that of a chat template."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    @classmethod
    def by_template(cls, message: str) -> "RejectedRow":
        """A chat that its template refuses, counted by the template's own message."""
        short = " ".join(message.split())[:LONGEST_MESSAGE]
        return cls(f"{TEMPLATE}: {short}", message)


@dataclass(frozen=True)
class Turn:
    """One turn: the role of its author, the text, and other fields for the chat template, such as tool_calls.

    context: the turn is an answer that is not learned.
    """

    role: Role
    text: str
    fields: Row = field(default_factory=dict)
    context: bool = False

    @property
    def learned(self) -> bool:
        """Whether the tokens of this turn are targets."""
        return self.role in ANSWERS and not self.context

    @property
    def reasoning(self) -> str:
        """The reasoning beside the text, or an empty string."""
        return next((str(self.fields[name]) for name in REASONING if self.fields.get(name)), "")

    @property
    def is_empty(self) -> bool:
        """Whether the turn has neither text nor reasoning nor a call of a tool."""
        return not (self.text.strip() or self.reasoning.strip() or self.fields.get("tool_calls"))

    def display(self) -> str:
        """The reasoning, the text and the calls of tools."""
        calls = self.fields.get("tool_calls")
        parts = [self.reasoning, self.text, json.dumps(calls, ensure_ascii=False) if calls else ""]
        return "\n\n".join(part for part in parts if part)


@dataclass(frozen=True)
class Example:
    """The turns of one row: a prompt and its response, or a chat up to its last learned turn.

    tools: the functions that the chat may call, as its template takes them.
    """

    turns: tuple[Turn, ...]
    tools: tuple[object, ...] = ()

    @property
    def chat(self) -> bool:
        """Whether the turns are a chat, to be formatted by the tokenizer's chat template."""
        return self.turns[0].role != "prompt"

    @property
    def answers(self) -> list[int]:
        """Positions of the turns that are learned."""
        return [position for position, turn in enumerate(self.turns) if turn.learned]


def example_id(example: Example) -> str:
    """32 hex digits: xxh3-128 of the roles and texts of the turns, and of what else is text in a chat."""
    digest = xxhash.xxh3_128()
    for turn in example.turns:
        text = turn.text.encode()
        digest.update(f"{turn.role} {len(text)}\n".encode())
        digest.update(text)
        others = {name: turn.fields[name] for name in _IDENTITY if turn.fields.get(name)}
        if others or turn.context:
            digest.update(json.dumps([others, turn.context], sort_keys=True).encode())
    if example.tools:
        digest.update(json.dumps(example.tools, sort_keys=True).encode())
    return digest.hexdigest()


def answer_id(row_id: str, answer: int | None) -> str:
    """The id of the example that learns one answer of a row; the row's own id for one that learns all."""
    return row_id if answer is None else xxhash.xxh3_128_hexdigest(f"{row_id} answer {answer}".encode())


def prompt_text(example: Example) -> str:
    """The prompt, or all turns of a chat that are not by the assistant, for display."""
    return "\n\n".join(turn.text for turn in example.turns if turn.role not in ANSWERS)


def response_text(example: Example) -> str:
    """The response, or all turns of a chat by the assistant, for display."""
    return "\n\n".join(turn.display() for turn in example.turns if turn.role in ANSWERS)


def find_value(row: Row, fields: Fields, *names: str) -> tuple[str, object]:
    """Name and value of the first of `names` that is in the row and not null; the last name and None without one.

    If any of the names is mapped, only mapped names count. `metadata.source` is the field of that name, or the field
    `source` of `metadata`.
    """
    known = _mapped(fields, names)
    for name in known:
        value = nested_value(row, name)
        if value is not None:
            return name, value
    return known[-1], None


def _mapped(fields: Fields, names: Sequence[str]) -> Sequence[str]:
    """The names in the row to which `names` are mapped; without any, `names`."""
    return [fields[name] for name in names if name in fields] or names


def nested_value(row: Row, name: str) -> object:
    """The value at `name`, in which dots separate the names of nested objects, or None."""
    value = row.get(name)
    head, dot, rest = name.partition(".")
    if value is None and dot:
        inner = row.get(head)
        return nested_value(inner, rest) if isinstance(inner, Mapping) else None
    return value


def read_field(row: Row, fields: Fields, kind: type[T], *names: str, default: T | None = None) -> T:
    """Value of the first of `names` that is in the row; null counts as missing.

    Raises RejectedRow if there is none and no default, or if the value is not of type `kind`.
    """
    name, found = find_value(row, fields, *names)
    value = default if found is None else found
    if value is None:
        raise RejectedRow("missing_field", f"no field {' or '.join(_mapped(fields, names))}")
    if not isinstance(value, kind):
        raise RejectedRow("invalid_type", f"field {name} is of type {json_type(value)}, not {_JSON_TYPES[kind]}")
    return value


def read_answer(row: Row, fields: Fields, *names: str) -> str:
    """Text of an answer: a text, a number or boolean as JSON, or a list of one of these. Raises RejectedRow."""
    name, value = find_value(row, fields, *names)
    if value is None:
        raise RejectedRow("missing_field", f"no field {' or '.join(_mapped(fields, names))}")
    text = as_text(value[0] if isinstance(value, list) and len(value) == 1 else value)
    if text is None:
        raise RejectedRow("invalid_type", f"field {name} is of type {json_type(value)}, not string")
    return text


def as_text(value: object) -> str | None:
    """A text, or a finite number or a boolean as JSON; None for other values."""
    if isinstance(value, str):
        return value
    finite = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return json.dumps(value) if finite else None


def json_type(value: object) -> str:
    return _JSON_TYPES.get(type(value), type(value).__name__)


def texts_of(value: object) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from texts_of(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_of(inner)
