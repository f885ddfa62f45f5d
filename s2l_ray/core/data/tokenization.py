"""Tokenisation of examples into token ids and target spans.

A text is cut where a response begins and ends, so no token crosses the boundary of a target span. Every response ends
with the end-of-text token unless the chat template ends it. A pair has the beginning-of-text token that its tokenizer
adds, a chat the one that its template writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from s2l_ray.core.data.segment_encoder import SegmentEncoder
from s2l_ray.core.data.segments import ExampleText, Segments, clip_segments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_OF_TEXT = "<|endoftext|>"
PADDING = "<|padding|>"
BYTES = 256
# A shorter text is always tokenised whole.
LEAST_CHARACTERS = 64 << 10


@dataclass(frozen=True)
class Encoded:
    """One tokenised example, truncated to max_length.

    target_spans: (start, end) of each response, end exclusive. full_length: tokens before truncation; of a text that is
    many times too long, a smaller number above max_length.
    """

    input_ids: list[int]
    target_spans: list[tuple[int, int]]
    full_length: int


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE tokenizer of at most vocab_size tokens; the same texts give the same tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocab_size < BYTES + 2:
        raise ValueError(f"vocab_size {vocab_size} is too small; {BYTES} bytes and 2 special tokens need {BYTES + 2}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrap: Callable[..., PreTrainedTokenizerBase] = PreTrainedTokenizerFast
    return wrap(tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=PADDING)


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a local folder.

    A missing padding token is set to the end-of-text token. Raises ValueError if there is no end-of-text token, or if
    the library `tokenizers` does not run it.
    """
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not tokenizer.is_fast:
        raise ValueError(f"tokenizer {folder} has no tokenizer.json; save it as a fast tokenizer")
    if tokenizer.eos_token_id is None:
        raise ValueError(f"tokenizer {folder} has no eos_token; name one in its tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    """The ids of padding, beginning and end, by the names that configs of models have for them."""
    return {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}


def adds_beginning(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer begins a text with its beginning-of-text token."""
    first_ids: list[int] = tokenizer("a")["input_ids"][:1]
    return first_ids == [tokenizer.bos_token_id]


class Encoder:
    """Tokenise texts and truncate them to max_length on the right. A text whose answers are truncated has no spans."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self._segments = SegmentEncoder(tokenizer)
        self._max_length = max_length
        self._most_characters = max(LEAST_CHARACTERS, 2 * max_length * max(map(len, tokenizer.get_vocab())))
        self._end = cast(int, tokenizer.eos_token_id)
        self._beginning = [cast(int, tokenizer.bos_token_id)] if adds_beginning(tokenizer) else []

    def encode(self, texts: Sequence[ExampleText]) -> list[Encoded]:
        """Token ids and spans. A chat has the beginning-of-text token that its template writes, if any.

        Of a very long text only the beginning is tokenised, so that one row of many megabytes takes neither minutes nor
        gigabytes. It has twice the characters that max_length tokens can have.
        """
        clipped = [clip_segments(text.segments, self._most_characters) for text in texts]
        encoded = self._encode(texts, clipped)
        for number, (text, segments) in enumerate(zip(texts, clipped, strict=True)):
            # a normaliser that shortens texts, or an unknown token that covers any number of characters
            if segments is not text.segments and encoded[number].full_length <= self._max_length:
                (encoded[number],) = self._encode([text], [text.segments])
        return encoded

    def _encode(self, texts: Sequence[ExampleText], segments: Sequence[Segments]) -> list[Encoded]:
        ids = self._segments.encode(segments)
        return [
            self._join([] if text.chat else self._beginning, own, own_ids)
            for text, own, own_ids in zip(texts, segments, ids, strict=True)
        ]

    def _join(self, prefix: list[int], segments: Segments, segment_ids: list[list[int]]) -> Encoded:
        ids, spans = list(prefix), []
        for segment, own_ids in zip(segments, segment_ids, strict=True):
            start = len(ids)
            ids += own_ids
            if segment.append_end:
                ids.append(self._end)
            if segment.learned:
                spans.append((start, len(ids)))
        most = self._max_length
        clipped = [(start, min(end, most)) for start, end in spans if start < min(end, most)]
        return Encoded(ids[:most], clipped, len(ids))
