"""LoRA: merged checkpoints, frozen weights and resumed trainings; the merge against the model with adapters."""

from pathlib import Path

import numpy as np
import pytest
import torch

from s2l_ray.core.causal_lm import init_model, load_model, save_model
from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.training.finetune import Hooks, Weights, finetune
from s2l_ray.core.training.records import CheckpointRecord
from s2l_ray.core.training.schedule import CheckpointGrid, FinetuneSettings, LoraSettings
from s2l_ray.core.training.state import TrainingState

peft = pytest.importorskip("peft", reason="the extra lora is not installed")

from s2l_ray.core.training.lora import add_adapters, merge_adapters  # noqa: E402

LORA = LoraSettings(r=4, alpha=8)
SETTINGS = FinetuneSettings(2, 8, 1e-2, 0.1, 0.0, 1.0, "float32", CheckpointGrid(fraction=1.0, initial=False), 3, 4)
# Linear layers, Conv1D layers with transposed weights, and tied output embeddings
MODELS = [
    {
        "architecture": "llama",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    },
    {"architecture": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2},
]
EXPERTS = {**MODELS[0], "architecture": "mixtral", "num_key_value_heads": 1, "num_local_experts": 2}


def make_rows() -> TokenRows:
    rng = np.random.default_rng(0)
    lengths_N = rng.integers(4, 12, 24)
    spans_S2 = np.stack([np.full(24, 2), lengths_N], axis=1).astype(np.int32)
    offsets_N1 = np.concatenate([[0], np.cumsum(lengths_N)])
    return TokenRows(rng.integers(1, 60, lengths_N.sum()).astype(np.int32), offsets_N1, spans_S2, np.arange(25))


def train(model: torch.nn.Module, state: TrainingState | None = None, **hooks: object) -> Weights:
    """The merged weights of the last checkpoint."""
    found: list[Weights] = []

    def put(record: CheckpointRecord, weights: Weights) -> None:
        found.append(merge_adapters(model, weights))

    rows = make_rows()
    finetune(model, rows, rows.take([0, 1]), SETTINGS, Hooks(on_checkpoint=put, **hooks), state)
    return found[-1] if found else {}


@pytest.mark.parametrize("config", MODELS, ids=lambda config: str(config["architecture"]))
def test_a_checkpoint_computes_what_the_trained_model_computes(config: dict[str, object], tmp_path: Path) -> None:
    model, base = init_model(config, 60, 0), init_model(config, 60, 0)
    add_adapters(model, LORA, seed=1)
    ids = torch.arange(1, 11).reshape(1, 10)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, base(ids).logits), "B is 0 before training"
    merged = train(model)
    save_model(base, tmp_path, state_dict=merged)
    stored = load_model(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(stored(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-4)
    untrained = init_model(config, 60, 0).state_dict()
    changed = [name for name, tensor in stored.state_dict().items() if not torch.equal(tensor, untrained[name])]
    assert changed and not any(part in name for name in changed for part in ("embed", "wte", "norm", "lm_head"))


def test_adapters_of_experts_are_merged() -> None:
    model = init_model(EXPERTS, 60, 0)
    add_adapters(model, LORA, seed=1)
    for parameter in filter(lambda one: one.requires_grad, model.parameters()):
        torch.nn.init.normal_(parameter, std=0.1)
    merged = merge_adapters(model, {name: tensor.detach().clone() for name, tensor in model.state_dict().items()})
    stored = init_model(EXPERTS, 60, 0)
    stored.load_state_dict(merged)
    ids = torch.arange(1, 11).reshape(1, 10)
    with torch.no_grad():
        torch.testing.assert_close(stored(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-4)


def test_only_named_layers_are_trained() -> None:
    model = init_model(MODELS[0], 60, 0)
    add_adapters(model, LoraSettings(2, 4, ("q_proj", "v_proj")), seed=1)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 2 and all("q_proj" in name or "v_proj" in name for name in trained)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (MODELS[0], ("missing",)),
        (MODELS[0], ("q_proj", "missing")),
        (MODELS[0], ("lm_head",)),
        (MODELS[1], ("c_attn", "wte")),  # tied to the output embeddings
    ],
)
def test_names_that_cannot_have_adapters_are_refused(config: dict[str, object], names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"target_modules|Target modules"):
        add_adapters(init_model(config, 60, 0), LoraSettings(2, 4, names), seed=1)


def test_a_resumed_training_ends_with_the_same_weights() -> None:
    whole = init_model(MODELS[0], 60, 0)
    add_adapters(whole, LORA, seed=1)
    expected = train(whole)

    states: list[TrainingState] = []
    first = init_model(MODELS[0], 60, 0)
    add_adapters(first, LORA, seed=1)
    train(first, signal=lambda step: "save and stop" if step == 2 else "continue", on_state=states.append)
    second = init_model(MODELS[0], 60, 0)
    add_adapters(second, LORA, seed=99)  # the state replaces them
    found = train(second, states[0])
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
