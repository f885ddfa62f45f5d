"""Numerical error against differences of losses computed directly."""

import copy

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.scoring.losses import ScoreOptions, score_rows
from s2l_ray.core.scoring.numerical_error import measure_numerical_error


def test_error_is_the_difference_of_losses() -> None:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=200, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
    )
    exact = GPTNeoXForCausalLM(config).eval()
    rounded = copy.deepcopy(exact)
    for parameter in rounded.parameters():
        parameter.data = parameter.data.bfloat16()
    random = np.random.default_rng(0)
    ids = [random.integers(0, 200, length).tolist() for length in random.integers(5, 60, 30)]
    rows = TokenRows.from_rows(ids, [[(3, len(row))] if position else [] for position, row in enumerate(ids)])
    found = measure_numerical_error(exact, rounded, rows, ScoreOptions(dtype="bfloat16"))
    losses = []
    for model, dtype in ((exact, "float32"), (rounded, "bfloat16")):
        scored = score_rows(model, rows.take(range(1, 30)), options=ScoreOptions(dtype=dtype))
        losses.append(scored["nll_sum"] / scored["target_tokens"])
    assert found.rows == 29
    assert 0 <= found.padding < 1e-5
    assert 0 <= found.batch < 0.05
    np.testing.assert_allclose(found.bfloat16_largest, np.abs(losses[0] - losses[1]).max())
    assert 0 < found.bfloat16_mean < found.bfloat16_largest < 0.05
