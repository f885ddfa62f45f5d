"""Positions of the answers in a rendered chat.

An answer is what the model writes itself: the text from after the generation prompt to the end-of-turn marker. It is
read from two renderings of the turns up to the answer, so that it does not depend on what follows:

    prompt = turns before the answer, with the generation prompt        answer = own[len(prompt):], up to the marker
    own    = turns up to and including the answer

A template renders a chat whole if `own` of each answer is a prefix of `own` of the last one. Templates that remove the
reasoning from earlier answers do not, and each answer is then a text with its own context.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from posixpath import commonprefix
from typing import cast

from s2l_ray.core.data.chat_template import ChatTemplate
from s2l_ray.core.data.segments import CONTROL, PROBE, Segment, Segmented
from s2l_ray.core.data.turns import Example, RejectedRow, Turn

_ANSWER = Turn("assistant", f"answer{PROBE}text")
_END_OF_THOUGHT = "</think>"


@dataclass(frozen=True)
class _Answer:
    """The rendering `text` of a chat up to and including an answer, which begins at `start`.

    has_end: the text ends with an end-of-turn marker.
    """

    text: str
    start: int
    has_end: bool

    @property
    def learned(self) -> str:
        return self.text[self.start :]


def render_chat(template: ChatTemplate, example: Example) -> Segmented:
    """The chat as segments. Raises RejectedRow where the template refuses it."""
    found, lost = [], False
    for position in example.answers:
        turns = example.turns[: position + 1]
        answer = _find_answer(template, turns, example.tools)
        _check_content(turns[-1], answer)
        lost = lost or _loses_reasoning(turns[-1], answer)
        found.append(answer)
    whole = all(found[-1].text.startswith(answer.text) for answer in found)
    return Segmented(tuple(map(_segments, [found] if whole else [[answer] for answer in found])), lost)


def _segments(answers: Sequence[_Answer]) -> tuple[Segment, ...]:
    """The text of the last answer, cut before and after each answer."""
    segments: list[Segment] = []
    done, text = 0, answers[-1].text
    for answer in answers:
        segments.append(Segment(text[done : answer.start], False))
        done = len(answer.text)
        segments.append(Segment(text[answer.start : done], True, not answer.has_end))
    return tuple(segments)


def _find_answer(template: ChatTemplate, turns: Sequence[Turn], tools: Sequence[object]) -> _Answer:
    """The last of the turns as an answer."""
    own = template.render(turns, tools)
    prompt = template.render(turns[:-1], tools, generate=True)
    if own.startswith(prompt) and template.has_generation_prompt:
        start = len(prompt)
    else:
        header, _ = _frame(template, turns, tools)
        start = len(commonprefix([header, own]))
        if own.startswith(prompt) and not own[len(prompt) : start].strip():
            start = len(prompt)  # the model writes the space before the answer
    ended = re.search(rf"((?:{template.control})+)(?:\s+{template.control})*\s*$", own[start:])
    if ended:
        return _Answer(own[: start + ended.end(1)], start, True)
    _, footer = _frame(template, turns, tools)
    text = own.removesuffix(footer)
    if footer.strip() and text != own:
        return _Answer(text + footer.rstrip(), start, True)
    marker = _late_marker(template, text, turns, tools)
    return _Answer(text + marker, start, bool(marker))


def _frame(template: ChatTemplate, turns: Sequence[Turn], tools: Sequence[object]) -> tuple[str, str]:
    """The text that the template writes before and after the last turn, found by rendering another answer."""
    header, found, footer = template.render([*turns[:-1], _ANSWER], tools).partition(_ANSWER.text)
    return (header, footer) if found else ("", "")


def _late_marker(template: ChatTemplate, own: str, turns: Sequence[Turn], tools: Sequence[object]) -> str:
    """The end-of-turn marker that the template writes only before the next turn, or an empty string.

    It is the special token that follows, if that is the end-of-text token, or if another special token, which begins
    the next turn, comes after it.
    """
    following = template.render(turns, tools, generate=True)
    if not following.startswith(own):
        return ""
    found = re.match(rf"\s*({template.control})(\s*{template.control})?", following[len(own) :])
    if found and (found[2] or found[1] == CONTROL + template.named_tokens.get("eos_token", "")):
        return following[len(own) : len(own) + found.end(1)]
    return ""


def _check_content(turn: Turn, answer: _Answer) -> None:
    """Raise RejectedRow if the template leaves out the text of the turn or its calls of tools."""
    calls = cast(list[dict[str, dict[str, str]]], turn.fields.get("tool_calls") or [])
    if any(call["function"]["name"] not in answer.learned for call in calls):
        raise RejectedRow.by_template("the chat template does not render tool_calls")
    text = turn.text.rpartition(_END_OF_THOUGHT)[2]
    if "".join(text.split()) not in "".join(answer.learned.split()):
        raise RejectedRow.by_template("the chat template does not render the text of an answer as it is")


def _loses_reasoning(turn: Turn, answer: _Answer) -> bool:
    """Whether the template leaves out the reasoning of the turn."""
    thought = _END_OF_THOUGHT in turn.text and _END_OF_THOUGHT not in answer.text
    return thought or turn.reasoning.strip() not in answer.learned
