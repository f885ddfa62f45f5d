"""Chats of any turns with any template: each is rejected with a reason, or exactly its answers are learned."""

import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from s2l_ray.core.data.chat_answers import render_chat
from s2l_ray.core.data.chat_template import ChatTemplate
from s2l_ray.core.data.examples import read_row
from s2l_ray.core.data.segments import CONTROL, Segmented, chat_texts, chat_to_json
from s2l_ray.core.data.tokenization import Encoder
from s2l_ray.core.data.turns import Example, RejectedRow
from tests.support.chat_tokenizers import END, PUBLISHED, WRITTEN, chat_tokenizer

Row = dict[str, Any]
ROLE = st.sampled_from(["system", "user", "Human", "assistant", "gpt", "tool", "observation"])
TEXT = st.text(alphabet="a1 \n<|>_/imendthkÉ漢", max_size=12) | st.sampled_from(
    ["<|im_end|>", "</think>", "<think>\nhm\n</think>\n\n5", "<s>", "[INST]", "###", "<|im_start|>assistant\n", END, ""]
)
PARTS = st.lists(TEXT | st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}), max_size=3)
CALL = st.fixed_dictionaries(
    {"name": st.just("add"), "arguments": st.sampled_from(['{"a": 1}', {"a": 1}, "not JSON", {}, None])}
)
TURN = st.fixed_dictionaries(
    {"role": ROLE, "content": TEXT | PARTS | st.none()},
    optional={
        "tool_calls": st.lists(st.fixed_dictionaries({"function": CALL}), max_size=2) | st.none(),
        "reasoning_content": TEXT | st.none(),
        "weight": st.sampled_from([0, 1]),
    },
)
QUESTION = st.fixed_dictionaries({"role": st.sampled_from(["user", "Human"]), "content": TEXT})
ANSWER = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": TEXT.filter(str.strip)},
    optional={"reasoning_content": TEXT, "weight": st.sampled_from([0, 1])},
)
EXCHANGE = st.tuples(QUESTION, ANSWER)
MESSAGES = st.lists(EXCHANGE | EXCHANGE | EXCHANGE | EXCHANGE | st.tuples(TURN), min_size=1, max_size=4)
ROWS = st.fixed_dictionaries(
    {"messages": MESSAGES.map(lambda parts: [turn for part in parts for turn in part])},
    optional={"tools": st.just([{"type": "function", "function": {"name": "add"}}]), "system": TEXT},
)
TEMPLATES = (*WRITTEN, *PUBLISHED)
DATE = datetime.date(2024, 1, 1)
Tools = dict[str, tuple[ChatTemplate, PreTrainedTokenizerBase]]


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    made = {}
    for name in TEMPLATES:
        tokenizer = chat_tokenizer(name, tmp_path_factory.mktemp(name))
        made[name] = ChatTemplate.of(tokenizer, DATE), tokenizer
    return made


def check_answers(rendered: Segmented, example: Example, tokenizer: PreTrainedTokenizerBase, per_answer: bool) -> None:
    """Check that the learned segments are the answers, and that the target spans are these segments."""
    texts = chat_texts(chat_to_json(example, rendered), per_answer)
    learned = [segment for text in texts for segment in text.segments if segment.learned]
    for segment, position in zip(learned, example.answers, strict=True):
        answer = example.turns[position].text.rpartition("</think>")[2]
        assert "".join(answer.split()) in "".join(segment.text.replace(CONTROL, "").split())
    encoded = Encoder(tokenizer, 100_000).encode(texts)
    spans = [tokenizer.decode(one.input_ids[start:end]) for one in encoded for start, end in one.target_spans]
    assert spans == [segment.text.replace(CONTROL, "") + END * segment.append_end for segment in learned]


@pytest.mark.long
@given(row=ROWS, name=st.sampled_from(TEMPLATES))
@settings(max_examples=10_000)
def test_ten_thousand_chats(tools: Tools, row: Row, name: str) -> None:
    template, tokenizer = tools[name]
    try:
        example = read_row(row, "messages", {}).example
        rendered = render_chat(template, example)
    except RejectedRow as rejected:
        assert rejected.reason and rejected.detail
        return
    check_answers(rendered, example, tokenizer, per_answer=True)
    if rendered.whole:
        check_answers(rendered, example, tokenizer, per_answer=False)
