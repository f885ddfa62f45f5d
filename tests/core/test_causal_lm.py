"""Strict loading, saving, swapping and initialisation of models of several architectures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

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


@pytest.mark.parametrize(
    ("architecture", "sizes", "masks"),
    [
        (
            "gpt_neo",
            {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]},
            ("attn.attention.bias", "attn.attention.masked_bias"),
        ),
        ("gptj", {"n_embd": 16, "n_layer": 2, "n_head": 2, "rotary_dim": 4}, ("attn.bias", "attn.masked_bias")),
        ("codegen", {"n_embd": 16, "n_layer": 2, "n_head": 4, "rotary_dim": 4}, ("attn.causal_mask",)),
    ],
)
def test_causal_masks_among_the_weights_are_ignored(
    architecture: str, sizes: dict[str, object], masks: tuple[str, ...], tmp_path: Path
) -> None:
    """Earlier versions of transformers saved them; another tensor of such a name stays an error."""
    model = init_model({"architecture": architecture, **sizes}, VOCAB, 0)
    save_model(model, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name in masks:
        mask = torch.tensor(-1e9) if name.endswith("masked_bias") else torch.ones(1, 1, 32, 32, dtype=torch.bool).tril()
        weights |= {f"transformer.h.{layer}.{name}": mask.clone() for layer in range(2)}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    assert torch.equal(load_model(tmp_path)(ids_BL).logits, model(ids_BL).logits)
    save_file(
        {**weights, f"transformer.h.0.{masks[0]}": torch.ones(16)}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ValueError, match="unexpected"):
        load_model(tmp_path)


@pytest.mark.parametrize("architecture", ["phi3", "smollm3", "gemma", "opt", "modernbert-decoder"])
def test_special_ids_are_those_of_the_tokenizer(architecture: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"ffn_dim": 32, "word_embed_proj_dim": 16} if architecture == "opt" else {"intermediate_size": 32}
    sizes |= {"num_key_value_heads": 2} if architecture in ("smollm3", "gemma") else {}
    config = {"architecture": architecture, **sizes}
    ids = {"pad_token_id": 5, "bos_token_id": 6, "eos_token_id": 5}
    model = init_model(config, VOCAB, 0, ids)
    assert {name: getattr(model.config, name) for name in ids} == ids
    assert init_model({**config, "eos_token_id": 7}, VOCAB, 0, ids).config.eos_token_id == 7
    save_model(model, tmp_path)
    for trained in (model, load_model(tmp_path), init_model(config, VOCAB, 0)):
        trained(ids_BL).logits[:, :-1].log_softmax(-1).gather(2, ids_BL[:, 1:, None]).sum().backward()
        gradient_VH = trained.get_input_embeddings().weight.grad
        assert gradient_VH is not None and (gradient_VH[:9] != 0).any(dim=1).all(), "every token read is trained"


def test_a_common_field_that_the_config_class_does_not_declare_is_used() -> None:
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    layers = {"num_hidden_layers": 1, "intermediate_size": 64, "moe_intermediate_size": 32, "num_experts": 2}
    experts = {"architecture": "qwen3_moe", "num_experts_per_tok": 1, **sizes, **layers}
    weights = init_model(experts, VOCAB, 0).state_dict()
    (query,) = (value for name, value in weights.items() if name.endswith("q_proj.weight"))
    assert query.shape == (2 * 8, 32)


def test_noise_of_nested_configs_is_removed() -> None:
    sizes = {"d_model": 16, "n_layers": 2, "n_heads": 2, "max_seq_len": 32}
    model = init_model({"architecture": "mpt", **sizes, "attn_config": {"attn_pdrop": 1}}, VOCAB, 0).train()
    assert torch.equal(model(ids_BL).logits, model(ids_BL).logits)


@pytest.mark.parametrize("architecture", ["t5", "distilbert"])
def test_architectures_without_a_causal_model_are_refused_in_one_line(architecture: str) -> None:
    with pytest.raises(ValueError, match=architecture) as caught:
        init_model({"architecture": architecture}, VOCAB, 0)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("architecture", ["t5", "bart", "distilbert"])
def test_saved_models_that_are_not_causal_are_refused_in_one_line(architecture: str, tmp_path: Path) -> None:
    AutoConfig.for_model(architecture).save_pretrained(tmp_path)
    save_file({"any": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=architecture) as caught:
        load_model(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_the_decoder_of_an_encoder_decoder_is_a_causal_model(tmp_path: Path) -> None:
    sizes = {"d_model": 16, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32}
    model = init_model({"architecture": "bart", **sizes}, VOCAB, 0)
    save_model(model, tmp_path)
    assert torch.equal(load_model(tmp_path)(ids_BL).logits, model(ids_BL).logits)
