"""Packed training on a CUDA device: gradients against padded training."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.training.loss import TrainingLoss
from s2l_ray.core.training.packed_check import choose_training_attention
from s2l_ray.core.training.schedule import CheckpointGrid, FinetuneSettings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

VOCABULARY = 997
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
MODELS = [
    {**SIZES, "model_type": "gpt_neox", "intermediate_size": 512},
    {**SIZES, "model_type": "llama", "num_key_value_heads": 2, "intermediate_size": 512},
]


def settings(precision: Any, attention: Any = "auto") -> FinetuneSettings:
    grid = CheckpointGrid(steps=1)
    return FinetuneSettings(1, 8, 1e-3, 0.0, 0.0, 1.0, precision, grid, seed=0, micro_batch=3, attention=attention)


def make_rows() -> TokenRows:
    random = np.random.default_rng(0)
    ids = [random.integers(3, VOCABULARY, length).tolist() for length in random.integers(4, 400, 16)]
    return TokenRows.from_rows(ids, [[(2, len(row))] for row in ids])


@pytest.mark.parametrize("values", MODELS, ids=lambda values: values["model_type"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_packed_gradient_matches_padded_gradient(values: dict[str, Any], precision: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values)).eval().to("cuda")
    chosen = choose_training_attention(model, make_rows(), settings(precision))
    assert chosen.attention == "packed", chosen
    assert chosen.difference is not None
    assert chosen.difference < (1e-3 if precision == "float32" else 0.03)


def test_gradient_checkpointing_does_not_change_gradients() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**MODELS[0])).train().to("cuda")
    rows, gradients = make_rows(), []
    for recompute in (False, True):
        if recompute:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        loss = TrainingLoss(model, "bfloat16", "packed")
        model.zero_grad()
        with loss.execution_context(recompute):
            loss(rows, np.arange(len(rows))).backward()
        gradients.append(
            torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
        )
    assert (gradients[0] - gradients[1]).norm() < 1e-2 * gradients[0].norm()
