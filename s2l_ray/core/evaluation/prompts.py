"""Prompts as token ids, up to the first token of an answer in training, and the tokens that end an answer."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.core.data.chat_answers import render_chat
from s2l_ray.core.data.segments import ExampleText, Segment, Segments
from s2l_ray.core.data.turns import Example, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from s2l_ray.core.data.chat_template import ChatTemplate

ANSWER = "answer"
UNLIMITED = 1 << 30


@dataclass(frozen=True)
class PromptEncoder:
    """A tokenizer of prompts. template: of chats, in which a prompt is a turn of the user; None: a prompt is a text."""

    tokenizer: PreTrainedTokenizerBase
    template: ChatTemplate | None

    @classmethod
    def load(cls, folder: Path, date: str | None) -> PromptEncoder:
        """The tokenizer in a folder. date: the only one that its chat template sees; None to use no chat template."""
        from s2l_ray.core.data.chat_template import ChatTemplate
        from s2l_ray.core.data.tokenization import load_tokenizer

        tokenizer = load_tokenizer(str(folder))
        template = ChatTemplate.of(tokenizer, datetime.date.fromisoformat(date)) if date is not None else None
        return cls(tokenizer, template)

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of each prompt."""
        return self._encode([self._segments(prompt)[0] for prompt in prompts])

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The end-of-text token, and the special token with which the chat template ends an answer."""
        end = self.tokenizer.eos_token_id
        assert isinstance(end, int)
        last = self._encode([self._segments("question")[1]])[0][-1]
        added = self.tokenizer.added_tokens_decoder.get(last)  # all_special_ids has only those with a role, like eos
        return (end, last) if last != end and added is not None and added.special else (end,)

    def _encode(self, texts: Sequence[Segments]) -> list[list[int]]:
        from s2l_ray.core.data.tokenization import Encoder

        examples = [ExampleText(segments, self.template is not None, "", "") for segments in texts]
        return [one.input_ids for one in Encoder(self.tokenizer, UNLIMITED).encode(examples)]

    def _segments(self, prompt: str) -> tuple[Segments, Segments]:
        """The segments of the prompt, and those of a short answer to it."""
        if self.template is None:
            return (Segment(prompt, False),), (Segment(ANSWER, True, append_end=True),)
        chat = Example((Turn("user", prompt), Turn("assistant", ANSWER)))
        (segments,) = render_chat(self.template, chat).texts
        first = next(position for position, segment in enumerate(segments) if segment.learned)
        return segments[:first], segments[first : first + 1]
