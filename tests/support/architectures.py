"""Tiny models of any architecture, rows for them, and their losses one row at a time."""

from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.scoring.losses import ScoreOptions, per_example_loss, score_rows

VOCABULARY = 300
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
EIGHT = {**GROUPED, "head_dim": 8}


def model_of(architecture: str, fields: dict[str, Any]) -> PreTrainedModel:
    """A random model whose weights are large enough for attention and head to matter."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **fields)
    model = AutoModelForCausalLM.from_config(config).eval().float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def in_bfloat16(model: PreTrainedModel) -> PreTrainedModel:
    """Its weights and not its buffers: rotary frequencies stay float32, as in a model that is loaded so."""
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    return model


def rows_of(lengths: list[int], vocabulary: int = VOCABULARY) -> TokenRows:
    random = np.random.default_rng(0)
    ids = [random.integers(3, vocabulary, length).tolist() for length in lengths]
    return TokenRows.from_rows(ids, [[(length // 3, length)] for length in lengths])


def batch_size_1_loss(model: PreTrainedModel, rows: TokenRows) -> np.ndarray:
    """Mean loss of each row by the model's own forward pass at batch size 1."""
    losses = []
    for index in range(len(rows)):
        ids_1L = torch.from_numpy(rows.take([index]).ids_X.astype(np.int64))[None]
        labels_1L = torch.where(torch.from_numpy(rows.take([index]).target_mask_X)[None], ids_1L, -100)
        with torch.no_grad():
            nll_sum_B, tokens_B = per_example_loss(model(ids_1L).logits.double(), labels_1L)
        losses.append(float(nll_sum_B / tokens_B))
    return np.array(losses)


def mean_loss(model: PreTrainedModel, rows: TokenRows, options: ScoreOptions) -> np.ndarray:
    scored = score_rows(model, rows, options=options)
    return np.asarray(scored["nll_sum"] / scored["target_tokens"])
