"""Packed scoring on many architectures: equal to the model's own forward pass at batch size 1, or padded chosen."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.scoring.losses import STATISTICS, ScoreOptions, choose_attention, score_rows
from tests.support.architectures import (
    EIGHT,
    GROUPED,
    SMALL,
    VOCABULARY,
    batch_size_1_loss,
    in_bfloat16,
    mean_loss,
    model_of,
    rows_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")

PACKED: dict[str, dict[str, Any]] = {
    "gpt_neox": SMALL,
    "llama": GROUPED,
    "qwen3": EIGHT,
    "gpt2": {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2},
    "opt": {**SMALL, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "phi": SMALL,
    "mistral": {**GROUPED, "sliding_window": 7},
    "qwen2": {**GROUPED, "tie_word_embeddings": True},
    "gemma": EIGHT,
    "gemma3_text": {**EIGHT, "sliding_window": 7},
    "starcoder2": {**GROUPED, "sliding_window": 150},
    "mixtral": {**GROUPED, "num_local_experts": 4},
}
PADDED: dict[str, tuple[dict[str, Any], str]] = {
    "gemma2": ({**EIGHT, "sliding_window": 7}, "scaled or capped"),
    "cohere": (GROUPED, "scaled or capped"),
    "granite": ({**GROUPED, "logits_scaling": 8.0}, "scaled or capped"),
    "bloom": ({"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4}, "registered attention"),
    "gpt_oss": ({**EIGHT, "num_local_experts": 4, "num_experts_per_tok": 2}, "s_aux"),
    "stablelm": (GROUPED, "boundaries"),
    "mamba": ({"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2}, "depend on the row"),
}


ROWS = rows_of([9, 5, 140, 23, 23, 61, 260])


@pytest.mark.parametrize("architecture", PACKED)
def test_packed_loss_matches_batch_size_1(architecture: str) -> None:
    model = model_of(architecture, PACKED[architecture])
    options = ScoreOptions(tokens_per_batch=300)
    choice = choose_attention(model, ROWS, options)
    assert choice.attention == "packed", choice
    assert choice.difference is not None and choice.difference <= 1e-5
    np.testing.assert_allclose(mean_loss(model, ROWS, options), batch_size_1_loss(model, ROWS), atol=1e-5)


@pytest.mark.parametrize("architecture", PADDED)
def test_unsupported_models_score_padded(architecture: str) -> None:
    fields, reason = PADDED[architecture]
    model = model_of(architecture, fields)
    options = ScoreOptions(tokens_per_batch=300)
    choice = choose_attention(model, ROWS, options)
    assert choice.attention == "padded"
    assert any(part in choice.reason for part in reason.split("|")), choice
    scored = mean_loss(model, ROWS, ScoreOptions(tokens_per_batch=300, attention=choice.attention))
    np.testing.assert_allclose(scored, batch_size_1_loss(model, ROWS), atol=2e-5)


@pytest.mark.parametrize("architecture", ["gemma2", "cohere", "granite"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_capped_logits_are_detected_in_an_untrained_model(architecture: str, dtype: str) -> None:
    """Where logits are tiny a cap changes losses by less than any tolerance, and later by much."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **PADDED[architecture][0])
    model = AutoModelForCausalLM.from_config(config).eval()
    model = in_bfloat16(model) if dtype == "bfloat16" else model
    assert choose_attention(model, ROWS, ScoreOptions(dtype=dtype)).attention == "padded"


def test_check_leaves_the_model_unchanged() -> None:
    model = in_bfloat16(model_of("llama", GROUPED))
    before = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    attention = model.config._attn_implementation
    choice = choose_attention(model, ROWS, ScoreOptions(dtype="bfloat16"))
    assert choice.attention == "packed"
    assert before == {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    assert model.dtype == torch.bfloat16 and model.config._attn_implementation == attention


def test_bfloat16_stays_near_float32() -> None:
    model, statistics = model_of("gpt_neox", {**SMALL, "hidden_size": 128}), tuple(STATISTICS)
    exact = score_rows(model, ROWS, options=ScoreOptions(statistics=statistics))
    rounded = score_rows(in_bfloat16(model), ROWS, options=ScoreOptions(dtype="bfloat16", statistics=statistics))
    for name in ("mean_probability", "mean_entropy", "el2n", "token_accuracy"):
        np.testing.assert_allclose(rounded[name], exact[name], atol=0.03, err_msg=name)
    np.testing.assert_allclose(
        rounded["nll_sum"] / rounded["target_tokens"], exact["nll_sum"] / exact["target_tokens"], atol=0.05
    )


@pytest.mark.parametrize("attention", ["packed", "padded"])
def test_scores_are_deterministic_and_independent_of_the_batch(attention: str) -> None:
    model, options = model_of("gpt_neox", SMALL), ScoreOptions(tokens_per_batch=200, attention=attention)
    once, again = (score_rows(model, ROWS, options=options)["nll_sum"] for _ in range(2))
    np.testing.assert_array_equal(once, again)
    some = np.array([5, 0, 3])
    apart = score_rows(model, ROWS.take(some), options=options)["nll_sum"]
    np.testing.assert_allclose(apart, once[some], rtol=1e-6)


@pytest.mark.parametrize("attention", ["packed", "padded"])
def test_rows_without_target_have_nan(attention: str) -> None:
    rows = TokenRows.from_rows([[5, 6, 7], [], [9], [4, 5]], [[], [], [(0, 1)], [(1, 2)]])
    scored = score_rows(
        model_of("gpt_neox", SMALL), rows, options=ScoreOptions(attention=attention, statistics=("el2n",))
    )
    assert np.isnan(scored["nll_sum"]).tolist() == [True, True, True, False]
    assert np.isnan(scored["el2n"]).tolist() == [True, True, True, False]
    assert scored["target_tokens"].tolist() == [0, 0, 0, 1]
    nothing = score_rows(model_of("gpt_neox", SMALL), rows.take([0]), options=ScoreOptions(attention=attention))
    assert np.isnan(nothing["nll_sum"]).all()


def test_loss_beyond_the_float32_exponent_range_is_exact() -> None:
    model, statistics = model_of("gpt_neox", SMALL), tuple(STATISTICS)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(40)
    assert batch_size_1_loss(model, ROWS).max() > 100
    packed, padded = (
        score_rows(model, ROWS, options=ScoreOptions(attention=attention, statistics=statistics))
        for attention in ("packed", "padded")
    )
    for name in packed:
        np.testing.assert_allclose(packed[name], padded[name], rtol=1e-4, err_msg=name)


def test_nan_in_the_head_gives_nan() -> None:
    model = model_of("gpt_neox", SMALL)
    with torch.no_grad():
        model.get_output_embeddings().weight[7] = torch.nan
    for attention in ("packed", "padded"):
        scored = score_rows(model, ROWS, options=ScoreOptions(attention=attention, statistics=("token_accuracy",)))
        assert np.isnan(scored["nll_sum"]).all() and np.isnan(scored["token_accuracy"]).all()
