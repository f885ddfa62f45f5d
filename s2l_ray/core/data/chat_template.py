"""Rendering of chats by the tokenizer's chat template.

Special tokens that the template writes have CONTROL in front of them in the rendered text; those that a row spells do
not, and so remain text. Dates come from the job and not from the clock.
"""

import datetime
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

from s2l_ray.core.data.segments import CONTROL, PROBE
from s2l_ray.core.data.turns import RejectedRow, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTION = Turn("user", f"question{PROBE}text")


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template in the language Jinja, and the special tokens of its tokenizer by name (bos_token, ...).

    source, source_with_tools: the template for chats without and with tools. control_tokens: texts of all special
    tokens. date: the only date that the template sees.
    """

    source: str
    source_with_tools: str
    named_tokens: Mapping[str, str]
    control_tokens: tuple[str, ...]
    date: datetime.date

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase", date: datetime.date) -> "ChatTemplate":
        """The template of a tokenizer. Raises ValueError if it has none."""
        if tokenizer.chat_template is None:
            raise ValueError(
                "the rows are chats and the tokenizer has no chat template; use the tokenizer of a chat model"
            )
        added = tokenizer.added_tokens_decoder.values()
        named = tokenizer.special_tokens_map.items()
        return cls(
            source=tokenizer.get_chat_template(),
            source_with_tools=tokenizer.get_chat_template(tools=[{}]),
            named_tokens={name: str(token) for name, token in named if not isinstance(token, list)},
            control_tokens=tuple(token.content for token in added if token.special and token.content),
            date=date,
        )

    def render(self, turns: Sequence[Turn], tools: Sequence[object] = (), *, generate: bool = False) -> str:
        """The text of the turns. generate: add the generation prompt, which precedes an answer.

        Calls of tools have their arguments as an object, or as JSON text if the template fails on an object. Raises
        RejectedRow with the template's own message as the reason.
        """
        try:
            return self._render([_message(turn, self._takes_parts) for turn in turns], tools, generate)
        except RejectedRow:
            if not any(turn.fields.get("tool_calls") for turn in turns):
                raise
            messages = [_message(turn, self._takes_parts, text_arguments=True) for turn in turns]
            return self._render(messages, tools, generate)

    def _render(self, messages: list[dict[str, object]], tools: Sequence[object], generate: bool) -> str:
        try:
            text = _compiled(self.source_with_tools if tools else self.source)(
                messages=self._escaped(messages),
                tools=self._escaped(list(tools)) or None,
                documents=None,
                add_generation_prompt=generate,
                strftime_now=self._format_date,
                **self.named_tokens,
            )
        except Exception as error:  # the template is a program of its own, which can fail in any manner
            raise RejectedRow.by_template(str(error) or type(error).__name__) from error
        return self._special.sub(_unescape, text)

    @cached_property
    def has_generation_prompt(self) -> bool:
        """Whether the template heeds `add_generation_prompt`."""
        try:
            return self.render([QUESTION]) != self.render([QUESTION], generate=True)
        except RejectedRow:
            return True

    @cached_property
    def control(self) -> str:
        """Regular expression of a special token that the template wrote."""
        tokens = sorted(self.control_tokens, key=len, reverse=True)
        return f"{CONTROL}(?:{'|'.join(map(re.escape, tokens))})"

    @cached_property
    def _takes_parts(self) -> bool:
        """Whether the template reads content as a list of parts and leaves out content that is a text."""
        for parts in (False, True):
            try:
                if QUESTION.text in self._render([_message(QUESTION, parts)], (), generate=False):
                    return parts
            except RejectedRow:
                continue
        return False

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """A special token, or one that `_escaped` marked."""
        tokens = sorted(self.control_tokens, key=len, reverse=True)
        escaped = [f"{re.escape(token[0])}{CONTROL}{re.escape(token[1:])}" for token in tokens]
        return re.compile("|".join([*escaped, *map(re.escape, tokens)]) or r"(?!)")

    def _escaped(self, value: object) -> object:
        """The value with CONTROL after the first character of each special token that its texts spell."""
        if isinstance(value, str):
            return self._special.sub(lambda found: f"{found[0][0]}{CONTROL}{found[0][1:]}", value)
        if isinstance(value, Mapping):
            return {name: self._escaped(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._escaped(inner) for inner in value]
        return value

    def _format_date(self, form: str) -> str:
        return datetime.datetime.combine(self.date, datetime.time()).strftime(form)


def read_template(folder: Path, date: datetime.date) -> ChatTemplate | None:
    """The template in the folder of a tokenizer, read without torch; None if it has none."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    return ChatTemplate.of(tokenizer, date) if tokenizer.chat_template is not None else None


def _message(turn: Turn, parts: bool, text_arguments: bool = False) -> dict[str, object]:
    """A turn as templates take it, with reasoning under each of its usual names."""
    content = [{"type": "text", "text": turn.text}] if parts else turn.text
    message: dict[str, object] = {"role": turn.role, "content": content, **turn.fields}
    if turn.reasoning:
        message |= {"reasoning_content": turn.reasoning, "thinking": turn.reasoning}
    if text_arguments and turn.fields.get("tool_calls"):
        calls = cast(list[dict[str, dict[str, object]]], turn.fields["tool_calls"])
        message["tool_calls"] = [{**call, "function": _with_text(call["function"])} for call in calls]
    return message


def _with_text(function: Mapping[str, object]) -> dict[str, object]:
    arguments = function["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {**function, "arguments": text}


def _compiled(source: str) -> Callable[..., str]:
    """The function that renders a template in the sandbox of transformers, which compiles each template once."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    return cast(Callable[..., str], _compile_jinja_template(source).render)


def _unescape(found: re.Match[str]) -> str:
    """CONTROL in front of a special token of the template, none in one that the row spells."""
    text = found[0]
    return text.replace(CONTROL, "") if text[1:2] == CONTROL else CONTROL + text
