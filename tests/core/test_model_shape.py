"""Shapes counted from config fields, against the parameters of real models of transformers."""

import pytest

from s2l_ray.core.causal_lm import init_model
from s2l_ray.core.model_shape import shape_of_config

SIZES: dict[str, dict[str, object]] = {
    "gpt_neox": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        "tie_word_embeddings": True,
    },
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128},
    "llama": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 160,
    },
    "phi": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256},
}


@pytest.mark.parametrize("architecture", SIZES)
def test_parameters_are_those_of_the_model_but_for_vectors(architecture: str) -> None:
    fields = {"architecture": architecture, **SIZES[architecture]}
    model = init_model(fields, 1000, seed=0)
    actual = sum(one.numel() for one in model.parameters())
    vectors = sum(one.numel() for one in model.parameters() if one.ndim == 1)
    shape = shape_of_config(fields, 1000)
    assert shape is not None and shape.parameters == actual - vectors
    assert (shape.hidden_size, shape.vocab_size) == (64, 1000)


def test_a_model_with_experts_or_without_a_vocabulary_is_not_known() -> None:
    fields = {"architecture": "llama", **SIZES["llama"]}
    assert shape_of_config(fields) is None
    assert shape_of_config({**fields, "num_local_experts": 4}, 1000) is None
