"""Prompts as token ids, as the training encoded them, and the tokens that end an answer."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.core.data.segments import CONTROL, PROBE, ExampleText, Segment
from s2l_ray.core.data.turns import Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from s2l_ray.core.data.chat_template import ChatTemplate


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
        """Token ids of each prompt, up to the first token of an answer."""
        from s2l_ray.core.data.tokenization import Encoder

        texts = [self._text(prompt) for prompt in prompts]
        longest = 1 << 30
        return [one.input_ids for one in Encoder(self.tokenizer, longest).encode(texts)]

    def _text(self, prompt: str) -> ExampleText:
        text = prompt if self.template is None else self.template.render([Turn("user", prompt)], generate=True)
        return ExampleText((Segment(text, False),), self.template is not None, prompt, "")

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The end-of-text token, and the special token that the template writes after an answer."""
        end = self.tokenizer.eos_token_id
        assert isinstance(end, int)
        if self.template is None:
            return (end,)
        chat = self.template.render([Turn("user", "question"), Turn("assistant", PROBE)])
        found = re.match(rf"\s*({self.template.control})", chat.rpartition(PROBE)[2])
        token = self.tokenizer.convert_tokens_to_ids(found[1].removeprefix(CONTROL)) if found else end
        assert isinstance(token, int)
        return tuple(dict.fromkeys((end, token)))
