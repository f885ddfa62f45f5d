"""Scoring on a CUDA device: attention kernels, the Triton kernel, and complete models."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.scoring.losses import STATISTICS, ScoreOptions, choose_attention, score_rows
from s2l_ray.core.scoring.packed_attention import packed_attention_forward
from s2l_ray.core.scoring.token_statistics import statistics_from_hidden, statistics_from_logits

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

EVERYTHING = frozenset(STATISTICS) - {"loss"}
SMALL = {
    "vocab_size": 3000,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MODELS: dict[str, dict[str, Any]] = {
    "gpt_neox": SMALL,
    "llama": {**SMALL, "num_key_value_heads": 2},
    "mistral": {**SMALL, "num_key_value_heads": 2, "sliding_window": 700},
}


def model_of(architecture: str, dtype: torch.dtype) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **MODELS[architecture])).eval().float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
            parameter.data = parameter.data.to(dtype)  # and no buffer: rotary frequencies stay float32
    return model.to("cuda")


def rows_of(count: int) -> TokenRows:
    random = np.random.default_rng(0)
    ids = [random.integers(3, 3000, length).tolist() for length in random.integers(4, 600, count)]
    return TokenRows.from_rows(ids, [[(len(row) // 3, len(row))] for row in ids])


def mean_loss(model: PreTrainedModel, rows: TokenRows, options: ScoreOptions) -> np.ndarray:
    scored = score_rows(model, rows, options=options)
    return np.asarray(scored["nll_sum"] / scored["target_tokens"])


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packed_scoring_matches_padded_batch_size_1(architecture: str, dtype: str) -> None:
    rows, options = rows_of(40), ScoreOptions(tokens_per_batch=4096, dtype=dtype)
    model = model_of(architecture, getattr(torch, dtype))
    choice = choose_attention(model, rows, options)
    assert choice.attention == "packed", choice
    exact = mean_loss(model_of(architecture, torch.float32), rows, ScoreOptions(tokens_per_batch=1, attention="padded"))
    tolerance = 1e-5 if dtype == "float32" else 0.05
    scored = mean_loss(model, rows, options)
    np.testing.assert_allclose(scored, exact, atol=tolerance)
    np.testing.assert_array_equal(scored, mean_loss(model, rows, options))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("targets", "vocabulary"), [(1, 513), (300, 50304), (4097, 1000)])
def test_triton_kernel_matches_full_logits(targets: int, vocabulary: int, bias: bool) -> None:
    pytest.importorskip("triton")
    from s2l_ray.core.scoring.triton_token_statistics import triton_statistics_from_hidden

    torch.manual_seed(0)
    head = torch.nn.Linear(200, vocabulary, bias=bias, device="cuda", dtype=torch.bfloat16)
    hidden_TH = 3 * torch.randn(targets, 200, device="cuda", dtype=torch.bfloat16)
    target_T = torch.randint(vocabulary, (targets,), device="cuda")
    with torch.inference_mode():
        values, again = (triton_statistics_from_hidden(hidden_TH, head, target_T, EVERYTHING) for _ in range(2))
        expected = statistics_from_logits(head.float()(hidden_TH.float()), target_T, EVERYTHING)
    for name in expected:
        torch.testing.assert_close(values[name], expected[name], atol=1e-4, rtol=1e-4, msg=name)
        assert torch.equal(values[name], again[name]), name


def test_blockwise_statistics_match_full_logits() -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(64, 5000, device="cuda")
    hidden_TH, target_T = torch.randn(700, 64, device="cuda"), torch.randint(5000, (700,), device="cuda")
    with torch.inference_mode():
        values = statistics_from_hidden(hidden_TH, head, target_T, EVERYTHING)
        expected = statistics_from_logits(head(hidden_TH), target_T, EVERYTHING)
    for name in expected:
        torch.testing.assert_close(values[name], expected[name], atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [64, 80])
@pytest.mark.parametrize("groups", [1, 4])
def test_packed_attention_matches_cpu(dtype: torch.dtype, width: int, groups: int) -> None:
    lengths = [1, 130, 300, 64]
    starts = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    torch.manual_seed(0)
    query = torch.randn(1, 8, sum(lengths), width)
    key, value = torch.randn(2, 1, 8 // groups, sum(lengths), width)
    expected, _ = packed_attention_forward(
        torch.nn.Module(), query, key, value, None, 0.1, cu_seq_lens_q=starts, max_length_q=300
    )
    on_device = [each.to("cuda", dtype) for each in (query, key, value)]
    out, _ = packed_attention_forward(
        torch.nn.Module(), *on_device, None, 0.1, cu_seq_lens_q=starts.cuda(), max_length_q=300
    )
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(out.float().cpu(), expected, atol=tolerance, rtol=tolerance)
