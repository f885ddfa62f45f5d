"""Tokenisation of examples into token ids and target spans.

Prompts and responses are tokenised separately, so no token crosses the boundary of a target span. Every response ends
with the end-of-text token unless the chat template ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from s2l_ray.core.data.examples import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_OF_TEXT = "<|endoftext|>"
PADDING = "<|padding|>"
BYTES = 256


@dataclass(frozen=True)
class Encoded:
    """One tokenised example, truncated to max_length.

    target_spans: (start, end) of each response, end exclusive. full_length: tokens before truncation.
    problem: "template" if the chat template cannot be split into turns, in which case there are no ids; else None.
    """

    input_ids: list[int]
    target_spans: list[tuple[int, int]]
    full_length: int
    problem: str | None = None


@dataclass(frozen=True)
class _Segment:
    """A text that is tokenised by itself. append_end: whether an end-of-text token follows it."""

    text: str
    is_target: bool
    append_end: bool


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


def load_tokenizer(name_or_path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a local folder, or of a hub id if no such folder exists.

    A missing padding token is set to the end-of-text token. Raises ValueError if there is no end-of-text token.
    """
    from transformers import AutoTokenizer

    local = Path(name_or_path).is_dir()
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        name_or_path, revision=None if local else revision, local_files_only=local
    )
    if tokenizer.eos_token_id is None:
        raise ValueError(f"tokenizer {name_or_path} has no eos_token; name one in its tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def encode_examples(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], max_length: int) -> list[Encoded]:
    """Tokenise the examples in one batched call and truncate each to max_length on the right.

    An example whose responses are all truncated has no spans. Raises ValueError for a chat without a chat template.
    """
    segmented = [
        _chat_segments(tokenizer, example) if example.chat else _pair_segments(example) for example in examples
    ]
    texts = [segment.text for segments in segmented for segment in segments or ()]
    options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    ids = iter(tokenizer(texts, **options)["input_ids"] if texts else ())
    first_ids = tokenizer("a")["input_ids"][:1]
    leading = first_ids if first_ids == [tokenizer.bos_token_id] else []
    encoded = []
    for example, segments in zip(examples, segmented, strict=True):
        if segments is None:
            encoded.append(Encoded([], [], 0, "template"))
            continue
        prefix = [] if example.chat else leading
        encoded.append(
            _join(prefix, [(segment, next(ids)) for segment in segments], tokenizer.eos_token_id, max_length)
        )
    return encoded


def _join(prefix: list[int], segments: list[tuple[_Segment, list[int]]], end_id: int, max_length: int) -> Encoded:
    ids, spans = list(prefix), []
    for segment, segment_ids in segments:
        start = len(ids)
        ids += segment_ids
        if segment.append_end:
            ids.append(end_id)
        if segment.is_target:
            spans.append((start, len(ids)))
    clipped = [(start, min(end, max_length)) for start, end in spans if start < min(end, max_length)]
    return Encoded(ids[:max_length], clipped, len(ids))


def _pair_segments(example: Example) -> list[_Segment]:
    prompt, response = example.turns
    return [_Segment(prompt.text, False, False), _Segment(response.text, True, True)]


def _chat_segments(tokenizer: PreTrainedTokenizerBase, example: Example) -> list[_Segment] | None:
    """The formatted chat, split before and after each turn by the assistant; None if it cannot be split.

    The formatted text up to a turn must be a prefix of the whole formatted chat. It is not if the template drops the
    reasoning of earlier turns: the model would then train on a text that it never sees at inference.
    """
    from jinja2 import TemplateError

    if tokenizer.chat_template is None:
        raise ValueError("the rows are chats and the tokenizer has no chat template; use the tokenizer of a chat model")
    messages = [{"role": turn.role, "content": turn.text} for turn in example.turns]
    render = cast(Callable[..., str], partial(tokenizer.apply_chat_template, tokenize=False))
    segments, done = [], ""
    try:
        formatted = render(messages)
        for position, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = render(messages[:position], add_generation_prompt=True)
            after = render(messages[: position + 1])
            if not (before.startswith(done) and after.startswith(before) and formatted.startswith(after)):
                return None
            response = after[len(before) :].rstrip()
            if not response:
                return None
            segments.append(_Segment(before[len(done) :], False, False))
            segments.append(_Segment(response, True, response.endswith(message["content"].strip())))
            done = before + response
    except TemplateError:
        return None
    return segments
