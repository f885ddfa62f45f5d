"""Continuations of a tiny model against a loop over its unpadded forward pass."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from s2l_ray.core.causal_lm import init_model
from s2l_ray.core.data.tokenization import train_tokenizer
from s2l_ray.core.evaluation.generation import (
    GenerationOptions,
    GumbelNoise,
    Output,
    generate,
    make_output,
    plan_prompt_batches,
)
from tests.support.tiny_models import NEOX, VOCAB

GREEDY = GenerationOptions(max_new_tokens=12, end_ids=(0,), batch_size=8)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(["How many are there in all? There are"], VOCAB)


@pytest.fixture(scope="module", params=["gpt_neox", "gpt2"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """Relative and learned positions. Weights so large that the next token depends on the whole prompt."""
    own = {"gpt_neox": NEOX, "gpt2": {"architecture": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2}}
    model = init_model(own[request.param], VOCAB, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8) if parameter.dim() > 1 else None
    return model


def prompts(number: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(3, VOCAB, rng.integers(2, 30)).tolist() for _ in range(number)]


def greedy(model: PreTrainedModel, ids: Sequence[int], options: GenerationOptions) -> list[int]:
    """Token ids of a loop without padding, batch or cache."""
    found = list(ids)
    for _ in range(options.max_new_tokens):
        with torch.inference_mode():
            token = int(model(input_ids=torch.tensor([found]), use_cache=False).logits[0, -1].argmax())
        if token in options.end_ids:
            break
        found.append(token)
    return found[len(ids) :]


def test_greedy_outputs_are_those_of_a_plain_loop_in_any_batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    asked = prompts(10)
    ends = Counter(token for ids in asked for token in greedy(model, ids, GREEDY))
    options = replace(GREEDY, end_ids=(0, ends.most_common()[2][0]))  # so that some outputs end early
    expected = [greedy(model, ids, options) for ids in asked]
    assert {len(ids) for ids in expected} > {12}
    assert len({tuple(ids) for ids in expected}) > 5
    for batch_size in (1, 8):
        found = generate(model, tokenizer, asked, [0] * len(asked), replace(options, batch_size=batch_size))
        assert found == [Output(str(tokenizer.decode(ids, skip_special_tokens=True)), len(ids)) for ids in expected]


def test_samples_do_not_depend_on_their_batch(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    asked, seeds = prompts(9), list(range(9))
    options = replace(GREEDY, temperature=2.0)
    together = generate(model, tokenizer, asked, seeds, options)
    alone = [generate(model, tokenizer, [ids], [seed], options)[0] for ids, seed in zip(asked, seeds, strict=True)]
    assert together == alone
    assert generate(model, tokenizer, asked, [seed + 100 for seed in seeds], options) != together


def test_noise_draws_from_the_softmax() -> None:
    logits_V = torch.tensor([1.0, 0.0, 2.0, -3.0])
    draws = 4000
    noise = GumbelNoise(range(draws), 0.5, torch.device("cpu"))
    drawn_B = noise(torch.zeros(draws, 1), logits_V.expand(draws, -1)).argmax(dim=1)
    share_V = torch.bincount(drawn_B, minlength=4) / draws
    assert torch.allclose(share_V, torch.softmax(logits_V / 0.5, 0), atol=0.02)


def test_an_output_ends_at_the_first_text_that_stops_it(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer("There are 5.\n### Instruction: How many")["input_ids"]
    stopping = replace(GREEDY, stop=("How", "### Instruction:"))
    assert make_output(tokenizer, ids, stopping) == Output("There are 5.\n", len(ids))
    assert make_output(tokenizer, [*ids[:3], 0, 0], GREEDY).tokens == 3


def test_generation_ends_once_a_text_stops_it(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """The text is a character in the middle of a free output."""
    asked = prompts(20)
    free = [output.text for output in generate(model, tokenizer, asked, [0] * 20, GREEDY)]
    at = max(range(20), key=lambda at: len(set(free[at][1:]) - set(free[at][:1])))
    stop = next(letter for letter in free[at][1:] if letter != free[at][0] and letter.isascii())
    (stopped,) = generate(model, tokenizer, [asked[at]], [0], replace(GREEDY, stop=(stop,)))
    assert stopped.text == free[at].partition(stop)[0]
    assert stopped.tokens < GREEDY.max_new_tokens


def test_batches_without_padding_have_prompts_of_one_length() -> None:
    lengths = [5, 3, 5, 9, 3, 5]
    assert list(plan_prompt_batches(lengths, 2, padded=True)) == [[3, 0], [2, 5], [1, 4]]
    assert list(plan_prompt_batches(lengths, 2, padded=False)) == [[3], [0, 2], [5], [1, 4]]
    assert list(plan_prompt_batches([], 2, padded=True)) == []
