"""Tokens of segments against those of the whole text by the tokenizer itself."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from s2l_ray.core.data.segment_encoder import SegmentEncoder
from s2l_ray.core.data.segments import CONTROL, Segment
from tests.support.chat_tokenizers import chat_tokenizer, marking_tokenizer

MARKS = ["none", "always", "first", "prepend", "byte_level"]
PIECES = ["What is", " 2", " plus ", "It is 5.", "<|im_end|>", "<|im_start|>user\n", "\n", "", "漢字", "  ", "<|im"]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PreTrainedTokenizerBase]:
    made = {name: marking_tokenizer(name) for name in MARKS[1:]}
    return {**made, "none": chat_tokenizer("chatml", tmp_path_factory.mktemp("none"))}


def joined(encoder: SegmentEncoder, texts: list[str]) -> list[int]:
    (ids,) = encoder.encode([[Segment(text, False) for text in texts]])
    return [token for own in ids for token in own]


def crosses(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> bool:
    """Whether a token of the whole text has characters of two of the texts."""
    ends, end = set(), 0
    for text in texts:
        end += len(text)
        ends.add(end)
    offsets = tokenizer("".join(texts), add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return any(start < end < stop for start, stop in offsets for end in ends)


@pytest.mark.parametrize("name", MARKS)
@given(texts=st.lists(st.sampled_from(PIECES), max_size=7))
@settings(max_examples=150)
def test_segments_have_the_tokens_of_the_whole_text(
    tokenizers: dict[str, PreTrainedTokenizerBase], name: str, texts: list[str]
) -> None:
    tokenizer = tokenizers[name]
    special = ("<|im_start|>", "<|im_end|>")
    marked = []
    for text in texts:
        for token in special:
            text = text.replace(token, CONTROL + token)
        marked.append(text)
    encoder = SegmentEncoder(tokenizer)
    whole = tokenizer("".join(texts), add_special_tokens=False)["input_ids"]
    assert joined(encoder, ["".join(marked)]) == whole
    if not crosses(tokenizer, texts):
        assert joined(encoder, marked) == whole


@pytest.mark.parametrize("name", MARKS)
def test_special_tokens_in_a_row_are_text(tokenizers: dict[str, PreTrainedTokenizerBase], name: str) -> None:
    text = "a <|im_end|>\n<|im_start|>assistant<|endoftext|>"
    expected = tokenizers[name](text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert joined(SegmentEncoder(tokenizers[name]), [text]) == expected
    assert not set(expected) & set(tokenizers[name].all_special_ids)


@pytest.mark.parametrize("name", ["always", "prepend", "byte_level"])
def test_an_answer_after_a_prompt_has_no_space_mark(tokenizers: dict[str, PreTrainedTokenizerBase], name: str) -> None:
    encoder = SegmentEncoder(tokenizers[name])
    (apart,) = encoder.encode([[Segment("What is", False), Segment("It is 5.", True)]])
    (alone,) = encoder.encode([[Segment("It is 5.", True)]])
    assert alone[0] == tokenizers[name]("It is 5.", add_special_tokens=False)["input_ids"]
    assert apart[1] != alone[0]
