"""Attention chosen before training: structure decides, and not the size of an error that training makes larger."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.scoring.losses import ScoreOptions, choose_attention
from s2l_ray.core.training.packed_check import choose_training_attention
from s2l_ray.core.training.schedule import CheckpointGrid, FinetuneSettings
from tests.support.architectures import GROUPED, batch_size_1_loss, mean_loss, model_of, rows_of

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT_ROWS, ALL_ROWS = rows_of([5, 9, 12]), rows_of([9, 5, 140, 23, 23, 61, 260])
SETTINGS = FinetuneSettings(1, 2, 1e-3, 0.0, 0.0, 1.0, "float32", CheckpointGrid(), seed=0, micro_batch=1)
LFM2 = {**GROUPED, "layer_types": ["conv", "full_attention"]}
LONGROPE = {
    **GROUPED,
    "max_position_embeddings": 512,
    "original_max_position_embeddings": 40,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [8.0] * 4,
        "original_max_position_embeddings": 40,
    },
}
WINDOW_IN_MASK: dict[str, dict[str, Any]] = {
    "qwen2_moe": {"use_sliding_window": True, "max_window_layers": 1, "num_experts": 4, "num_experts_per_tok": 2},
    "phimoe": {"num_local_experts": 4},
}


def untrained(architecture: str, fields: dict[str, Any], std: float = 0.02) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **fields, initializer_range=std)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    return model


@pytest.mark.parametrize("std", [0.02, 1e-4])
def test_layers_that_mix_neighbouring_rows_are_found_in_an_untrained_model(std: float) -> None:
    """With small weights the convolution changes mean losses by far less than the tolerance."""
    model = untrained("lfm2", LFM2, std)
    for choice in (
        choose_attention(model, ALL_ROWS, ScoreOptions()),
        choose_training_attention(model, ALL_ROWS, SETTINGS),
    ):
        assert choice.attention == "padded" and "depend on the row packed before" in choice.reason


@pytest.mark.parametrize("architecture", WINDOW_IN_MASK)
def test_a_window_that_only_the_mask_has_is_found_without_a_row_that_is_longer(architecture: str) -> None:
    fields = {**GROUPED, **WINDOW_IN_MASK[architecture], "sliding_window": 16}
    model = model_of(architecture, fields)
    choice = choose_attention(model, SHORT_ROWS, ScoreOptions())
    assert choice.attention == "padded" and "window" in choice.reason
    scored = mean_loss(model, ALL_ROWS, ScoreOptions(attention=choice.attention))
    np.testing.assert_allclose(scored, batch_size_1_loss(model, ALL_ROWS), atol=1e-5)


def test_experts_are_packed_although_other_tokens_change_the_shapes_of_products() -> None:
    model = untrained("olmoe", {**GROUPED, "hidden_size": 256, "num_experts": 16, "num_experts_per_tok": 4})
    assert choose_attention(model, ALL_ROWS, ScoreOptions()).attention == "packed"


@pytest.mark.slow
def test_rows_whose_logits_exceed_a_batch_are_compared() -> None:
    """Only tokens beyond those of the longest row that fits a padded batch are computed differently."""
    vocabulary = 2**18
    model, rows = model_of("llama", {**GROUPED, "vocab_size": vocabulary}), rows_of([1100, 400, 5])
    rows = TokenRows.from_rows(
        [rows.take([index]).ids_X.tolist() for index in range(3)], [[(1098, 1100)], [(1, 2)], [(1, 2)]]
    )
    assert rows.lengths_N.max() * vocabulary > 2**28
    assert choose_attention(model, rows, ScoreOptions()).attention == "packed"
    model.model.rotary_emb.register_forward_hook(lambda module, inputs, output: _faded(output))
    assert choose_attention(model, rows, ScoreOptions()).attention != "packed"


def _faded(cosine_and_sine: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Rotary embeddings that depend on the position in the sequence, and not in the row, after 1,024 tokens."""
    tokens = cosine_and_sine[0].shape[1]
    factor_1X1 = torch.linspace(1, 0, max(0, tokens - 1024))[None, :, None]
    return tuple(torch.cat([one[:, :1024], one[:, 1024:] * factor_1X1], dim=1) for one in cosine_and_sine)


@pytest.mark.parametrize("attention", ["packed", "padded"])
def test_batches_do_not_span_the_length_at_which_rotary_frequencies_change(attention: str) -> None:
    model = model_of("phi3", LONGROPE)
    options = ScoreOptions(tokens_per_batch=4000, attention=attention)
    assert choose_attention(model, ALL_ROWS, options).attention == attention
    np.testing.assert_allclose(mean_loss(model, ALL_ROWS, options), batch_size_1_loss(model, ALL_ROWS), atol=1e-5)


def test_a_model_that_padding_changes_is_run_one_row_at_a_time() -> None:
    model = model_of("llama", GROUPED)

    def scale_by_length(module: torch.nn.Module, inputs: object, output: CausalLMOutputWithPast) -> None:
        output["logits"] = output.logits * (1 + output.logits.shape[1] / 1000)

    model.register_forward_hook(scale_by_length)
    for choice in (
        choose_attention(model, ALL_ROWS, ScoreOptions()),
        choose_training_attention(model, ALL_ROWS, SETTINGS),
    ):
        assert choice.attention == "single"
    scored = mean_loss(model, ALL_ROWS, ScoreOptions(attention="single"))
    np.testing.assert_allclose(scored, batch_size_1_loss(model, ALL_ROWS), atol=1e-5)
