"""The Triton kernel in Triton's interpreter, on a CPU, against full logits."""

import importlib.util
import os
import subprocess
import sys

import pytest

INTERPRETED = """
import torch
from s2l_ray.core.scoring.triton_token_statistics import triton_statistics_from_hidden
from s2l_ray.core.scoring.token_statistics import statistics_from_logits

statistics = frozenset({"mean_probability", "token_accuracy", "mean_entropy", "el2n"})
for targets, vocabulary, hidden, bias in ((5, 700, 40, False), (150, 1000, 64, True), (1, 257, 96, False)):
    torch.manual_seed(targets)
    head = torch.nn.Linear(hidden, vocabulary, bias=bias)
    hidden_TH, target_T = 3 * torch.randn(targets, hidden), torch.randint(vocabulary, (targets,))
    with torch.inference_mode():
        values = triton_statistics_from_hidden(hidden_TH, head, target_T, statistics)
        expected = statistics_from_logits(head(hidden_TH), target_T, statistics)
    for name in expected:
        torch.testing.assert_close(values[name], expected[name], atol=1e-4, rtol=1e-4, msg=name)
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_triton_kernel_in_the_interpreter() -> None:
    """In float32: the interpreter multiplies bfloat16 as integers."""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", INTERPRETED], check=True, env=environment, timeout=300)
