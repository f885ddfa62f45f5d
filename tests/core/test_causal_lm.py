"""Strict loading, saving, swapping and initialisation of models of several architectures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from s2l_ray.core.causal_lm import init_model, load_model, save_model, swap_weights

VOCAB = 64
NEOX = {
    "architecture": "gpt_neox",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
LLAMA = {**NEOX, "architecture": "llama", "num_key_value_heads": 1}
TIED_LLAMA = {**LLAMA, "tie_word_embeddings": True}
GPT2 = {"architecture": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "resid_pdrop": 0.3}

ids_BL = torch.arange(20).reshape(2, 10)


@pytest.mark.parametrize("config", [NEOX, LLAMA, TIED_LLAMA, GPT2], ids=["gpt_neox", "llama", "tied", "gpt2"])
def test_saved_model_loads_and_swaps_exactly(config: dict[str, object], tmp_path: Path) -> None:
    first, second = init_model(config, VOCAB, seed=1), init_model(config, VOCAB, seed=2)
    save_model(first, tmp_path / "first")
    save_model(second, tmp_path / "second")
    model = load_model(tmp_path / "first")
    assert torch.equal(model(ids_BL).logits, first(ids_BL).logits)

    addresses = [parameter.data_ptr() for parameter in model.parameters()]
    swap_weights(model, tmp_path / "second")
    assert torch.equal(model(ids_BL).logits, second(ids_BL).logits)
    assert addresses == [parameter.data_ptr() for parameter in model.parameters()]

    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "second")
    assert torch.equal(model(ids_BL).logits, reference(ids_BL).logits)


def test_initialisation_depends_on_the_seed_only_and_has_no_dropout(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, other = init_model(GPT2, VOCAB, seed=3), init_model(GPT2, VOCAB, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    one.train()
    assert torch.equal(one(ids_BL).logits, one(ids_BL).logits)
    save_model(one, tmp_path / "one")
    save_model(other, tmp_path / "other")
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "other/model.safetensors").read_bytes()


@pytest.mark.parametrize("damage", ["missing head", "unexpected", "shape"])
def test_weights_that_do_not_fit_raise(damage: str, tmp_path: Path) -> None:
    save_model(init_model(NEOX, VOCAB, 0), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    head = weights.pop("embed_out.weight")
    if damage == "unexpected":
        weights |= {"embed_out.weight": head, "stray.weight": head.clone()}
    if damage == "shape":
        weights["embed_out.weight"] = head[:-1].clone()
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=str(tmp_path)):
        load_model(tmp_path)


def test_pickled_weights_raise(tmp_path: Path) -> None:
    model = init_model(NEOX, VOCAB, 0)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors"):
        load_model(tmp_path)


def test_swapping_in_another_shape_raises(tmp_path: Path) -> None:
    save_model(init_model({**NEOX, "hidden_size": 32}, VOCAB, 0), tmp_path)
    with pytest.raises(ValueError, match="does not fit"):
        swap_weights(init_model(NEOX, VOCAB, 0), tmp_path)


def test_half_precision_files_load_into_float32(tmp_path: Path) -> None:
    model = init_model(NEOX, VOCAB, 0).to(torch.float16)
    save_model(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float16"
    loaded = load_model(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.get_output_embeddings().weight, model.get_output_embeddings().weight.float())


@pytest.mark.parametrize(
    ("change", "word"),
    [({"architecture": "gpt_nox"}, "gpt_nox"), ({"hidden_sizes": 16}, "hidden_size"), ({"vocab_size": 65}, "65")],
)
def test_invalid_config_raises(change: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        init_model({**NEOX, **change}, VOCAB, 0)
