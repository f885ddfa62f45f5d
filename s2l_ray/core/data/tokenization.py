"""Text to token ids, with the boundary between what is given and what is learned exact.

In: a tokenizer (trained here, or loaded from a folder or the hub) and examples.
Out: per example its ids and the spans of its targets. What is given and what is learned are tokenised apart, so no
token straddles the boundary; every answer ends with the end-of-text token unless the chat template ends it itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from s2l_ray.core.data.examples import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END = "<|endoftext|>"
PADDING = "<|padding|>"
BYTES = 256


@dataclass(frozen=True)
class Encoded:
    """One tokenised example, cut at max_length.

    target_spans: (start, end) of each answer, end exclusive. full_length: tokens before the cut.
    problem: None, or "template" where the chat template cannot be cut into turns; there are no ids then.
    """

    input_ids: list[int]
    target_spans: list[tuple[int, int]]
    full_length: int
    problem: str | None = None


@dataclass(frozen=True)
class _Piece:
    """A text that is tokenised by itself: given or learned, and whether an end-of-text token closes it."""

    text: str
    learned: bool
    close: bool


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer of at most vocab_size tokens, the same for the same texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocab_size < BYTES + 2:
        raise ValueError(f"vocab_size {vocab_size} has no room for {BYTES} bytes and 2 special tokens; raise it")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrap: Callable[..., PreTrainedTokenizerBase] = PreTrainedTokenizerFast
    return wrap(tokenizer_object=tokenizer, eos_token=END, pad_token=PADDING)


def load_tokenizer(place: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a local folder, or of a hub id where no such folder exists; padding is set to eos where unset.

    Raises ValueError where it has no end-of-text token.
    """
    from transformers import AutoTokenizer

    local = Path(place).is_dir()
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        place, revision=None if local else revision, local_files_only=local
    )
    if tokenizer.eos_token_id is None:
        raise ValueError(f"tokenizer {place} has no eos_token; name one in its tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Write the tokenizer's files into a local folder; load_tokenizer reads them."""
    tokenizer.save_pretrained(str(folder))


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """Raise ValueError where the tokenizer has an id beyond the vocab_size rows of the model's embedding."""
    largest = max(tokenizer.get_vocab().values())
    if largest >= vocab_size:
        raise ValueError(
            f"the tokenizer has ids up to {largest}, the model an embedding of {vocab_size} rows; "
            "use the tokenizer that was saved with the model"
        )


def encode_examples(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], max_length: int) -> list[Encoded]:
    """Tokenise the examples in one batched call and cut each at max_length on the right.

    An example whose answers are all cut off has no spans. Raises ValueError for a chat without a chat template.
    """
    cut = [_pieces(tokenizer, example) for example in examples]
    texts = [piece.text for pieces in cut for piece in pieces or ()]
    ids = iter(
        tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        if texts
        else ()
    )
    first = _first_ids(tokenizer)
    return [
        _join(
            [(piece, next(ids)) for piece in pieces], [] if example.chat else first, tokenizer.eos_token_id, max_length
        )
        if pieces is not None
        else Encoded([], [], 0, "template")
        for example, pieces in zip(examples, cut, strict=True)
    ]


def _join(pieces: list[tuple[_Piece, list[int]]], first: list[int], end_id: int, max_length: int) -> Encoded:
    ids, spans = list(first), []
    for piece, piece_ids in pieces:
        start = len(ids)
        ids += piece_ids
        if piece.close:
            ids.append(end_id)
        if piece.learned:
            spans.append((start, len(ids)))
    clipped = [(start, min(end, max_length)) for start, end in spans if start < min(end, max_length)]
    return Encoded(ids[:max_length], clipped, len(ids))


def _first_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The beginning-of-text token, where the tokenizer puts one before a text."""
    ids = tokenizer("a")["input_ids"]
    return [ids[0]] if tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id else []


def _pieces(tokenizer: PreTrainedTokenizerBase, example: Example) -> list[_Piece] | None:
    if example.chat:
        return _chat_pieces(tokenizer, example)
    prompt, response = example.turns
    return [_Piece(prompt.text, False, False), _Piece(response.text, True, True)]


def _chat_pieces(tokenizer: PreTrainedTokenizerBase, example: Example) -> list[_Piece] | None:
    """The chat as the template writes it, cut before and after each answer; None where it cannot be cut.

    What the template writes up to a turn must be a prefix of what it writes for the whole chat. It is not where
    the template drops the reasoning of earlier answers: the model would then be trained on a text it never sees.
    """
    from jinja2 import TemplateError

    if tokenizer.chat_template is None:
        raise ValueError("the rows are chats and the tokenizer has no chat template; use one of a chat model")
    messages = [{"role": turn.role, "content": turn.text} for turn in example.turns]
    pieces, done = [], ""
    try:
        whole = _render(tokenizer, messages, False)
        for position, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = _render(tokenizer, messages[:position], True)
            after = _render(tokenizer, messages[: position + 1], False)
            if not (before.startswith(done) and after.startswith(before) and whole.startswith(after)):
                return None
            answer = after[len(before) :].rstrip()
            if not answer:
                return None
            pieces.append(_Piece(before[len(done) :], False, False))
            pieces.append(_Piece(answer, True, answer.endswith(message["content"].strip())))
            done = before + answer
    except TemplateError:
        return None
    return pieces


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], answer_next: bool) -> str:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer_next)
    assert isinstance(text, str)
    return text
