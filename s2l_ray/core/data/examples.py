"""From a raw row to an example: the turns of a prompt and its answers, and an id that follows from them alone.

In: a row as a dict, the name of its format, and `fields`, which maps a format's own names to the row's.
Out: an `Example`, or `BadRow` with the reason it is none. A new format is one function and one row of `FORMATS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import xxhash

Role = Literal["prompt", "response", "system", "user", "assistant"]
Row = Mapping[str, Any]
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
SHAREGPT_ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
}
MESSAGE_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}


class BadRow(ValueError):
    """A row that is no example. `reason` is one of missing_field, bad_type, bad_role, empty_response."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Turn:
    """One piece of an example: who says it, and what."""

    role: Role
    text: str


@dataclass(frozen=True)
class Example:
    """The turns of one row: a prompt and its response, or a chat that ends with an answer of the assistant."""

    turns: tuple[Turn, ...]

    @property
    def chat(self) -> bool:
        """Whether the turns are a chat, to be written out by the tokenizer's own template."""
        return self.turns[0].role != "prompt"


def read_alpaca(row: Row, fields: Fields) -> Example:
    """instruction, input (may be missing), response (Alpaca files call it output), in the Alpaca template."""
    instruction = _text(row, fields, "instruction")
    response = _text(row, fields, "response", "output")
    context = _text(row, fields, "input", default="")
    template = ALPACA_WITH_INPUT if context.strip() else ALPACA
    return _pair(template.format(instruction=instruction, input=context), response)


def read_prompt_response(row: Row, fields: Fields) -> Example:
    """prompt and response (also called completion), as they are."""
    return _pair(_text(row, fields, "prompt"), _text(row, fields, "response", "completion"))


def read_sharegpt(row: Row, fields: Fields) -> Example:
    """conversations: a list of {from, value}."""
    return _chat(row, fields, ("conversations", "from", "value"), SHAREGPT_ROLES)


def read_messages(row: Row, fields: Fields) -> Example:
    """messages: a list of {role, content}."""
    return _chat(row, fields, ("messages", "role", "content"), MESSAGE_ROLES)


FORMATS: dict[str, Callable[[Row, Fields], Example]] = {
    "alpaca": read_alpaca,
    "prompt_response": read_prompt_response,
    "sharegpt": read_sharegpt,
    "messages": read_messages,
}

FORMAT_FIELDS: dict[str, tuple[str, ...]] = {
    "alpaca": ("instruction", "input", "response"),
    "prompt_response": ("prompt", "response"),
    "sharegpt": ("conversations", "from", "value"),
    "messages": ("messages", "role", "content"),
}
"""The names that `fields` may map, by format."""

CHAT_GUESSES: tuple[tuple[str, Fields], ...] = (
    ("messages", {}),
    ("sharegpt", {}),
    ("messages", {"messages": "conversations"}),
    ("sharegpt", {"conversations": "messages"}),
)
PROMPT_NAMES = ("prompt", "question", "query", "problem", "input")
RESPONSE_NAMES = ("response", "output", "completion", "answer", "solution", "target")


def guess_format(row: Row) -> tuple[str, dict[str, str]] | None:
    """The format of a row and the mapping it needs, or None where no format fits."""
    for name, fields in CHAT_GUESSES:
        if _reads(name, row, fields):
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
    """32 hex digits: xxh3-128 of the roles and texts of the turns, and of nothing else."""
    digest = xxhash.xxh3_128()
    for turn in example.turns:
        text = turn.text.encode()
        digest.update(f"{turn.role} {len(text)}\n".encode())
        digest.update(text)
    return digest.hexdigest()


def prompt_text(example: Example) -> str:
    """What a reader sees as the question: the prompt, or a chat's turns that are no answers."""
    return "\n\n".join(turn.text for turn in example.turns if turn.role not in ("response", "assistant"))


def response_text(example: Example) -> str:
    """What a reader sees as the answer: the response, or all answers of a chat."""
    return "\n\n".join(turn.text for turn in example.turns if turn.role in ("response", "assistant"))


def _reads(name: str, row: Row, fields: Fields) -> bool:
    try:
        FORMATS[name](row, fields)
    except BadRow:
        return False
    return True


def _pair(prompt: str, response: str) -> Example:
    if not response.strip():
        raise BadRow("empty_response", "the response is empty")
    return Example((Turn("prompt", prompt), Turn("response", response)))


def _chat(row: Row, fields: Fields, names: tuple[str, str, str], roles: Mapping[str, Role]) -> Example:
    """A chat up to its last answer: nothing is learned from what comes after it."""
    list_name, role_name, text_name = names
    messages = _value(row, fields, list_name)
    if not isinstance(messages, list):
        raise BadRow("bad_type", f"field {fields.get(list_name, list_name)!r} is a {_kind(messages)}, not a list")
    turns = [_turn(message, fields, role_name, text_name, roles) for message in messages]
    answers = [position for position, turn in enumerate(turns) if turn.role == "assistant"]
    if not answers:
        raise BadRow("empty_response", "no turn of the assistant")
    if answers[0] == 0:
        raise BadRow("bad_role", "the chat begins with an answer of the assistant")
    if any(not turns[position].text.strip() for position in answers):
        raise BadRow("empty_response", "a turn of the assistant is empty")
    return Example(tuple(turns[: answers[-1] + 1]))


def _turn(message: Any, fields: Fields, role_name: str, text_name: str, roles: Mapping[str, Role]) -> Turn:
    if not isinstance(message, dict):
        raise BadRow("bad_type", f"a turn is a {_kind(message)}, not an object")
    role = _text(message, fields, role_name)
    if role not in roles:
        raise BadRow("bad_role", f"role {role!r} is none of {', '.join(roles)}")
    return Turn(roles[role], _text(message, fields, text_name))


def _text(row: Row, fields: Fields, name: str, *others: str, default: str | None = None) -> str:
    value = _value(row, fields, name, *others, default=default)
    if not isinstance(value, str):
        raise BadRow("bad_type", f"field {fields.get(name, name)!r} is a {_kind(value)}, not a text")
    return value


def _value(row: Row, fields: Fields, name: str, *others: str, default: str | None = None) -> Any:
    """The first of the field's names that the row holds; null counts as missing. A mapped field has one name."""
    names = (fields[name],) if name in fields else (name, *others)
    for candidate in names:
        if row.get(candidate) is not None:
            return row[candidate]
    if default is not None:
        return default
    raise BadRow("missing_field", f"no field {' or '.join(map(repr, names))}")


def _kind(value: Any) -> str:
    return {dict: "object", list: "list", bool: "truth value", int: "number", float: "number"}.get(
        type(value), type(value).__name__
    )
