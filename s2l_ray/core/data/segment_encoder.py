"""Tokenisation of the segments of a text by a tokenizer that distinguishes special tokens from text that spells them.

The encoder is a copy of a tokenizer with two changes. Its special tokens have CONTROL in front of their text, so that a
row cannot spell them. It adds no space mark (Llama 2: `_Hello` for `Hello`); the encoder writes the mark where the
original adds it to the text as a whole. So the tokens of the segments, joined, are those of the whole text, except that
a token across a boundary is replaced by tokens of both sides: a prompt has the same tokens with and without its answer.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from s2l_ray.core.data.segments import CONTROL, Segment

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

Json = dict[str, Any]


@dataclass(frozen=True)
class SpaceMark:
    """A text that a tokenizer adds to the front: of the text, and with `always` of what follows a special token.

    doubled: it is added also in front of a space.
    """

    text: str = ""
    always: bool = True
    doubled: bool = False


class SegmentEncoder:
    """A tokenizer of segments, made from one that the library `tokenizers` runs."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        from tokenizers import Tokenizer

        backend = cast("Tokenizer", tokenizer.backend_tokenizer)
        description = json.loads(backend.to_str())
        tokens = _mark_special_tokens(description)
        self._mark = _remove_space_mark(description)
        self._copy = Tokenizer.from_str(json.dumps(description))
        self._control = re.compile("|".join(re.escape(CONTROL + token) for token in tokens) or r"(?!)")

    def encode(self, rows: Sequence[Sequence[Segment]]) -> list[list[list[int]]]:
        """Token ids of each segment of each row."""
        texts = [text for segments in rows for text in self._texts(segments)]
        encoded = iter(self._copy.encode_batch_fast(texts, add_special_tokens=False))
        return [[next(encoded).ids for _ in segments] for segments in rows]

    def _texts(self, segments: Sequence[Segment]) -> list[str]:
        """The segments with space marks, which the copy does not add."""
        if not self._mark.text:
            return [segment.text for segment in segments]
        texts, at_start = [], True
        for segment in segments:
            texts.append(self._marked(segment.text, at_start))
            if segment.text:
                ends = [found.end() for found in self._control.finditer(segment.text)]
                at_control = segment.append_end or (bool(ends) and ends[-1] == len(segment.text))
                at_start = self._mark.always and at_control
        return texts

    def _marked(self, text: str, at_start: bool) -> str:
        """The text with space marks at its start, if `at_start`, and after special tokens."""
        starts = [found.end() for found in self._control.finditer(text)] if self._mark.always else []
        if at_start and not self._control.match(text):
            starts.insert(0, 0)
        pieces, done = [], 0
        for start in starts:
            pieces.append(text[done:start])
            if start < len(text) and not self._control.match(text, start) and self._needs_mark(text[start]):
                pieces.append(self._mark.text)
            done = start
        return "".join([*pieces, text[done:]])

    def _needs_mark(self, first: str) -> bool:
        return self._mark.doubled or first not in (" ", self._mark.text)


def _mark_special_tokens(description: Json) -> list[str]:
    """Put CONTROL in front of the special tokens of a tokenizer's description; returns their texts, longest first."""
    vocabulary = description["model"]["vocab"]
    tokens = [token for token in description["added_tokens"] if token["special"]]
    renamed = {token["content"]: CONTROL + token["content"] for token in tokens}
    for token in tokens:
        token["content"] = renamed[token["content"]]
    if isinstance(vocabulary, dict):
        description["model"]["vocab"] = {renamed.get(name, name): number for name, number in vocabulary.items()}
    else:
        description["model"]["vocab"] = [[renamed.get(name, name), *rest] for name, *rest in vocabulary]
    unknown = description["model"].get("unk_token")
    if unknown in renamed:
        description["model"]["unk_token"] = renamed[unknown]
    description.update(post_processor=None, truncation=None, padding=None)
    return sorted(renamed, key=len, reverse=True)


def _remove_space_mark(description: Json) -> SpaceMark:
    """Stop a tokenizer from adding a space mark; returns the mark that it added."""
    mark = SpaceMark()
    for normalizer in _steps(description, "normalizer", "normalizers"):
        if normalizer["type"] == "Prepend":
            mark = SpaceMark(normalizer["prepend"], doubled=True)
            normalizer["prepend"] = ""
    for step in _steps(description, "pre_tokenizer", "pretokenizers"):
        if step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never":
            mark = SpaceMark(step["replacement"], always=step.get("prepend_scheme", "always") == "always")
            step["prepend_scheme"] = "never"
        elif step["type"] == "ByteLevel" and step["add_prefix_space"]:
            mark = SpaceMark(" ")
            step["add_prefix_space"] = False
    return mark


def _steps(description: Json, kind: str, inner: str) -> list[Json]:
    """The normalizers or pre-tokenizers of a tokenizer, also those of a sequence."""
    step = description.get(kind)
    if step is None:
        return []
    return step[inner] if step["type"] == "Sequence" else [step]
