"""Prompts of an evaluation are encoded like those of the training, and end tokens are those that end its answers."""

import datetime
import json
from pathlib import Path

import pytest

from s2l_ray.core.data.chat_answers import render_chat
from s2l_ray.core.data.chat_template import ChatTemplate
from s2l_ray.core.data.examples import ALPACA
from s2l_ray.core.data.segments import ExampleText, pair_text
from s2l_ray.core.data.tokenization import Encoder
from s2l_ray.core.data.turns import Example, Turn
from s2l_ray.core.evaluation.prompts import PromptEncoder
from tests.support.chat_tokenizers import chat_tokenizer

PROMPT = "What is 3 plus 4? <|im_end|>"
DATE = "2024-05-06"
# The special token that ends an answer besides the end-of-text token, by hand.
ENDS = {"chatml": "<|im_end|>", "ends_without_marker": None, "llama3": "<|eot_id|>", "gemma": "<end_of_turn>"}


@pytest.mark.parametrize(("name", "end"), ENDS.items())
def test_a_prompt_of_a_chat_is_that_of_the_training(name: str, end: str | None, tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(name, tmp_path)
    template = ChatTemplate.of(tokenizer, datetime.date.fromisoformat(DATE))
    chat = Example((Turn("user", PROMPT), Turn("assistant", "It is 7.")))
    (segments,) = render_chat(template, chat).texts
    (trained,) = Encoder(tokenizer, 1000).encode([ExampleText(segments, True, "", "")])
    ((start, stop),) = trained.target_spans
    encoder = PromptEncoder.load(tmp_path, DATE)
    assert encoder.encode([PROMPT]) == [trained.input_ids[:start]]
    ids = {tokenizer.eos_token_id, *([tokenizer.convert_tokens_to_ids(end)] if end else [])}
    assert set(encoder.end_ids) == ids and trained.input_ids[stop - 1] in ids


@pytest.mark.parametrize("name", ["chatml", "instruct"])
def test_a_prompt_of_a_pair_is_that_of_the_training(name: str, tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(name, tmp_path)
    prompt = ALPACA.format(instruction=PROMPT)
    pair = pair_text(Example((Turn("prompt", prompt), Turn("response", "It is 7."))))
    (trained,) = Encoder(tokenizer, 1000).encode([pair])
    encoder = PromptEncoder.load(tmp_path, None)
    assert encoder.encode([prompt]) == [trained.input_ids[: trained.target_spans[0][0]]]
    assert encoder.end_ids == (tokenizer.eos_token_id,)


def test_a_special_token_without_a_role_ends_an_answer(tmp_path: Path) -> None:
    chat_tokenizer("phi3", tmp_path)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    assert "<|end|>" in config.pop("extra_special_tokens")  # as in Phi-3, whose <|end|> is no token of a role
    path.write_text(json.dumps(config))
    encoder = PromptEncoder.load(tmp_path, DATE)
    assert encoder.tokenizer.convert_tokens_to_ids("<|end|>") not in encoder.tokenizer.all_special_ids
    assert encoder.end_ids == (encoder.tokenizer.eos_token_id, encoder.tokenizer.convert_tokens_to_ids("<|end|>"))
