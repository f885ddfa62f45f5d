"""Conversion of the turns of a chat, in the forms in which data sets store them.

A list of turns is a list of objects ({role, content} or {from, value}), a list of [role, text], one list for each key,
or any of these as JSON text. Every other field of a turn is kept for the chat template.
"""

import json
from collections.abc import Mapping
from typing import cast

from s2l_ray.core.data.turns import Example, Fields, RejectedRow, Role, Row, Turn, as_text, find_value, json_type

FUNCTION_CALL = "function_call"
ROLES: dict[str, str] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "ipython": "tool",
    FUNCTION_CALL: FUNCTION_CALL,
}
ROLE_NAMES = ("role", "from")
TEXT_NAMES = ("content", "value")
TEXT_PARTS = (None, "text", "input_text", "output_text")
# Placeholders in a text, and the columns with what they are for.
MEDIA = {name: (name, f"{name}s") for name in ("image", "video", "audio")}
SYSTEM_NAMES = ("system", "system_prompt", "system_message")
# Fields of an answer that, with this value, make it context.
NOT_LEARNED = {"weight": 0, "train": False, "trainable": False}


def decode_json(value: object) -> object:
    """The list or object that a text spells as JSON; any other value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def turn_list(value: object) -> list[object] | None:
    """The turns in a value that has one of the forms of a list of turns; None for other values."""
    value = decode_json(value)
    if isinstance(value, Mapping):
        columns = {name: column for name, column in value.items() if isinstance(column, list)}
        if not any(name in columns for name in ROLE_NAMES):
            return None
        longest = max(map(len, columns.values()))
        return [{name: column[at] for name, column in columns.items() if at < len(column)} for at in range(longest)]
    if isinstance(value, list):
        return value
    return None


def is_chat(value: object) -> bool:
    """Whether the value has a form of a list of turns, judged by its first turn."""
    turns = turn_list(value)
    if not turns:
        return False
    first = turns[0]
    if not isinstance(first, Mapping):
        return _is_pair(first)
    present = {name for name, value in first.items() if value is not None}
    return bool(present.intersection(ROLE_NAMES) and present.difference(ROLE_NAMES))


def read_turns(value: object, fields: Fields, roles: Mapping[str, str]) -> list[Turn]:
    """The turns in `value`. roles: names in the row that have another role than in ROLES, in any case.

    Raises RejectedRow.
    """
    turns = turn_list(value)
    if turns is None:
        raise RejectedRow("invalid_type", f"a list of turns is of type {json_type(value)}")
    known = {**ROLES, **{name.strip().lower(): role for name, role in roles.items()}}
    return [_read_turn(turn, fields, known) for turn in turns if turn is not None]


def chat_example(turns: list[Turn], row: Row, fields: Fields) -> Example:
    """A chat of these turns up to the last that is learned, with the system prompt and the tools of the row.

    Answers before the first question are context. Raises RejectedRow if nothing is learned or an answer is empty.
    """
    _refuse_media(turns, row)
    if not turns or turns[0].role != "system":
        system = as_text(find_value(row, fields, *SYSTEM_NAMES)[1])
        turns = [Turn("system", system), *turns] if system and system.strip() else turns
    asked = next((position for position, turn in enumerate(turns) if turn.role in ("user", "tool")), len(turns))
    turns = [
        Turn(turn.role, turn.text, turn.fields, context=turn.context or (turn.role == "assistant" and position < asked))
        for position, turn in enumerate(turns)
    ]
    learned = [position for position, turn in enumerate(turns) if turn.learned]
    if not learned:
        raise RejectedRow("empty_response", "no turn by the assistant that answers a question and is learned")
    if any(turns[position].is_empty for position in learned):
        raise RejectedRow("empty_response", "a turn by the assistant is empty")
    return Example(tuple(turns[: learned[-1] + 1]), _tools(row, fields))


def _refuse_media(turns: list[Turn], row: Row) -> None:
    """Raise RejectedRow if a text refers, by a marker such as <image>, to a picture, video or sound of the row."""
    for media, columns in MEDIA.items():
        if any(row.get(name) for name in columns) and any(f"<{media}>" in turn.text for turn in turns):
            raise RejectedRow("multimodal", f"a turn has an {media}, which is not text")


def _read_turn(turn: object, fields: Fields, roles: Mapping[str, str]) -> Turn:
    if _is_pair(turn):
        role, content = cast(list[object], turn)
        turn = {"role": role, "content": content}
    if not isinstance(turn, Mapping):
        raise RejectedRow("invalid_type", f"a turn is of type {json_type(turn)}, not object")
    role_name, role = _find(turn, fields, ROLE_NAMES)
    text_name, content = _find(turn, fields, TEXT_NAMES)
    if not isinstance(role, str):
        raise RejectedRow(
            "missing_field" if role is None else "invalid_type", f"a turn has no {role_name} that is text"
        )
    known = roles.get(role.strip().lower())
    if known is None:
        raise RejectedRow("invalid_role", f"role {role!r} is unknown; map it with roles: {{{role}: assistant}}")
    others = {name: value for name, value in turn.items() if name not in (role_name, text_name) and value is not None}
    context = any(name in others and others.pop(name) == value for name, value in NOT_LEARNED.items())
    others = {name: value for name, value in others.items() if name not in NOT_LEARNED}
    if content is None and not others:
        raise RejectedRow("missing_field", f"a turn has no {' or '.join(TEXT_NAMES)}")
    if known == "tool" and not isinstance(content, str):
        content = _result(content)
    text, reasoning = _content(content)
    others = {**others, **reasoning, **_calls(others)}
    others.pop(FUNCTION_CALL, None)
    if known == FUNCTION_CALL:
        calls = _call_list(decode_json(text))
        return Turn("assistant", "" if calls else text, {**others, **({"tool_calls": calls} if calls else {})}, context)
    return Turn(cast(Role, known), text, others, context and known == "assistant")


def _find(turn: Row, fields: Fields, names: tuple[str, ...]) -> tuple[str, object]:
    """Name and value of the role or the text of a turn; a name of `names` may be mapped."""
    mapped = [fields[name] for name in names if name in fields]
    for name in mapped or names:
        if turn.get(name) is not None:
            return name, turn[name]
    return (mapped or list(names))[0], None


def _is_pair(turn: object) -> bool:
    return isinstance(turn, list | tuple) and len(turn) == 2 and all(isinstance(part, str) for part in turn)


def _result(content: object) -> object:
    """The result of a tool: parts of text as they are, and other values as JSON text."""
    if isinstance(content, list) and all(isinstance(part, Mapping) and "type" in part for part in content):
        return content
    return json.dumps(content, ensure_ascii=False) if content is not None else ""


def _content(content: object) -> tuple[str, dict[str, object]]:
    """The text of a turn, with parts of text joined, and reasoning that is one of the parts."""
    if content is None:
        return "", {}
    text = as_text(content)
    if text is not None:
        return text, {}
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, list):
        raise RejectedRow("invalid_type", f"the content of a turn is of type {json_type(content)}, not string")
    texts: list[str] = []
    reasoning: dict[str, object] = {}
    for part in content:
        if part is None:
            continue
        kind = part.get("type") if isinstance(part, Mapping) else json_type(part)
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and kind in TEXT_PARTS and "text" in part:
            texts.append(as_text(part["text"]) or "")
        elif isinstance(part, Mapping) and isinstance(part.get("thinking"), str):
            reasoning = {"reasoning_content": part["thinking"]}
        else:
            raise RejectedRow("multimodal", f"a turn has a part of type {kind}, which is not text")
    return "".join(texts), reasoning


def _calls(fields: Row) -> dict[str, object]:
    """The field tool_calls in the form of chat templates, also from the older field function_call."""
    for name in ("tool_calls", FUNCTION_CALL):
        calls = _call_list(decode_json(fields.get(name)))
        if calls:
            return {"tool_calls": calls}
    return {}


def _call_list(value: object) -> list[object]:
    """Calls as [{type: function, function: {name, arguments}}] with arguments decoded; empty for other values."""
    calls: list[object] = []
    for call in value if isinstance(value, list) else [value]:
        if not isinstance(call, Mapping):
            continue
        function = call.get("function")
        function = function if isinstance(function, Mapping) else call
        if not isinstance(function.get("name"), str):
            continue
        others = {key: inner for key, inner in call.items() if key not in ("function", "name", "arguments", "type")}
        named = {key: inner for key, inner in function.items() if key in ("name", "arguments") and inner is not None}
        named["arguments"] = decode_json(named.get("arguments", {}))
        present = {key: inner for key, inner in others.items() if inner is not None}
        calls.append({**present, "type": "function", "function": named})
    return calls


def _tools(row: Row, fields: Fields) -> tuple[object, ...]:
    """The functions of the row, a list or JSON text."""
    name, value = find_value(row, fields, "tools")
    tools = decode_json(value)
    if tools is None or tools == "":
        return ()
    if isinstance(tools, Mapping):
        tools = [tools]
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise RejectedRow("invalid_type", f"field {name} is neither a list of functions nor JSON text of one")
    return tuple(tools)


def without_null_keys(row: Row) -> Row:
    """The row without keys of objects that are null, which Arrow adds where rows have different keys."""
    return cast(Row, _without_null_keys(row))


def _without_null_keys(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _without_null_keys(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_null_keys(inner) for inner in value]
    return value
