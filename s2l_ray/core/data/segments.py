"""Texts of examples, cut where learned text begins and ends."""

import json
from dataclasses import dataclass, replace

from s2l_ray.core.data.turns import Example, RejectedRow, Turn, prompt_text, response_text, texts_of

# Code points that Unicode reserves for internal use: CONTROL precedes special tokens in the text of a segment.
CONTROL, PROBE = "\ufdd0", "\ufdd1"


@dataclass(frozen=True)
class Segment:
    """A text that is tokenised by itself. append_end: whether the end-of-text token follows it."""

    text: str
    learned: bool
    append_end: bool = False


Segments = tuple[Segment, ...]


def clip_segments(segments: Segments, characters: int) -> Segments:
    """The segments up to a number of characters; the same object where they have no more."""
    clipped: list[Segment] = []
    left = characters
    for one in segments:
        if len(one.text) > left:
            return (*clipped, replace(one, text=one.text[:left], append_end=False))
        clipped.append(one)
        left -= len(one.text)
    return segments


@dataclass(frozen=True)
class Segmented:
    """A rendered chat: one list of segments, or one for each learned answer if no rendering has all of them.

    reasoning_lost: the template left out reasoning of an answer, which is not learned.
    """

    texts: tuple[Segments, ...]
    reasoning_lost: bool = False

    @property
    def whole(self) -> bool:
        """Whether one text has all answers."""
        return len(self.texts) == 1

    def per_answer(self) -> tuple[Segments, ...]:
        """One list of segments for each answer, which ends with it and in which earlier answers are context."""
        if not self.whole:
            return self.texts
        (segments,) = self.texts
        ends = [position for position, segment in enumerate(segments) if segment.learned]
        return tuple((*(replace(one, learned=False) for one in segments[:end]), segments[end]) for end in ends)


@dataclass(frozen=True)
class ExampleText:
    """One example of a row: its segments, and its prompt and response for display.

    chat: a template wrote the segments. answer: the position of its only learned answer among those of the row; None
    for an example with all of them.
    """

    segments: Segments
    chat: bool
    prompt: str
    response: str
    answer: int | None = None


def pair_text(example: Example) -> ExampleText:
    """The prompt and the response of a pair, which the end-of-text token follows."""
    prompt, response = example.turns
    segments = (Segment(prompt.text, False), Segment(response.text, True, append_end=True))
    return ExampleText(segments, False, prompt.text, response.text)


def chat_texts(chat: str, per_answer: bool) -> list[ExampleText]:
    """The examples of a chat written by `chat_to_json`: one, or one for each learned answer."""
    turns, texts = json.loads(chat)
    example = Example(tuple(Turn(role, text, context=context) for role, text, context in turns))
    segmented = Segmented(tuple(tuple(Segment(*one) for one in segments) for segments in texts))
    if not per_answer:
        (segments,) = segmented.texts
        return [ExampleText(segments, True, prompt_text(example), response_text(example))]
    found = []
    for answer, (position, segments) in enumerate(zip(example.answers, segmented.per_answer(), strict=True)):
        prompt = "\n\n".join(turn.text for turn in example.turns[:position])
        number = answer if len(example.answers) > 1 else None
        found.append(ExampleText(segments, True, prompt, example.turns[position].text, number))
    return found


def chat_to_json(example: Example, segmented: Segmented) -> str:
    """A rendered chat as JSON: its turns for display, and its segments."""
    turns = [(turn.role, turn.display(), turn.context) for turn in example.turns]
    texts = [[(one.text, one.learned, one.append_end) for one in segments] for segments in segmented.texts]
    return json.dumps([turns, texts], ensure_ascii=False)


def check_characters(example: Example) -> None:
    """Raise RejectedRow for a text with a code point that marks special tokens."""
    values = [(turn.text, turn.fields) for turn in example.turns]
    if any(mark in text for text in texts_of([values, example.tools]) for mark in (CONTROL, PROBE)):
        raise RejectedRow("noncharacter", f"the text has U+{ord(CONTROL):X} or U+{ord(PROBE):X}, reserved by Unicode")
