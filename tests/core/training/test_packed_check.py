"""Packed training: gradients equal to padded training, or padded attention chosen."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.training.loss import TrainingLoss
from s2l_ray.core.training.packed_check import choose_training_attention
from s2l_ray.core.training.schedule import CheckpointGrid, FinetuneSettings

VOCABULARY = 97
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {**SIZES, "model_type": "llama", "num_key_value_heads": 2, "intermediate_size": 64}
NEOX = {**SIZES, "model_type": "gpt_neox", "intermediate_size": 64}
COHERE = {
    **LLAMA,
    "model_type": "cohere",
    "logit_scale": 0.0625,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {"model_type": "gpt2", "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4}


def make_model(values: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(**values)
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    return model


def settings(precision: Any, attention: Any = "auto") -> FinetuneSettings:
    grid = CheckpointGrid(steps=1)
    return FinetuneSettings(1, 8, 1e-3, 0.0, 0.0, 1.0, precision, grid, seed=0, micro_batch=3, attention=attention)


def make_rows() -> TokenRows:
    random = np.random.default_rng(0)
    ids = [random.integers(3, VOCABULARY, length).tolist() for length in random.integers(4, 90, 12)]
    return TokenRows.from_rows(ids, [[(2, len(row))] for row in ids])


@pytest.mark.parametrize("values", [NEOX, LLAMA, GPT2], ids=lambda values: values["model_type"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_packed_gradient_is_within_tolerance(values: dict[str, Any], precision: str) -> None:
    chosen = choose_training_attention(make_model(values), make_rows(), settings(precision))
    assert chosen.attention == "packed", chosen
    assert chosen.difference is not None
    assert chosen.difference < (1e-5 if precision == "float32" else 0.03)


def test_model_with_scaled_logits_trains_padded() -> None:
    model, rows = make_model(COHERE), make_rows()
    chosen = choose_training_attention(model, rows, settings("float32"))
    assert chosen.attention == "padded"
    loss = TrainingLoss(model, "float32", chosen.attention)
    with loss.execution_context():
        value = loss(rows, np.arange(len(rows)))
    expected = 0.0
    for index in range(len(rows)):
        ids_1L = torch.tensor(rows.take([index]).ids_X, dtype=torch.int64)[None]
        labels_1L = ids_1L.clone()
        labels_1L[0, :2] = -100
        with torch.no_grad():
            expected += model(input_ids=ids_1L, labels=labels_1L).loss.item() * (ids_1L.shape[1] - 2)
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_padded_attention_can_be_requested() -> None:
    assert choose_training_attention(make_model(NEOX), make_rows(), settings("float32", "padded")).attention == "padded"


def test_packed_and_padded_update_are_equal() -> None:
    model, rows = make_model(LLAMA), make_rows()
    weights = []
    for attention in ("packed", "padded"):
        own = copy.deepcopy(model).train()
        loss = TrainingLoss(own, "float32", attention)
        with loss.execution_context():
            loss(rows, np.arange(len(rows))).backward()
        torch.optim.SGD(own.parameters(), lr=1e-3).step()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in own.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], atol=1e-6, rtol=1e-5)
