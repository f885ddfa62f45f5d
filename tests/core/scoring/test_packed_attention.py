"""Packed attention against masked products over all pairs of tokens."""

import numpy as np
import pytest
import torch

from s2l_ray.core.scoring.packed_attention import packed_attention_forward, padded_attention


@pytest.mark.parametrize("window", [None, 1, 40, 128, 200])
def test_attention_matches_masked_product(window: int | None) -> None:
    """Sequences, grouped queries, query blocks and a window, against one masked product."""
    lengths, heads, groups, width = [1, 130, 300], 4, 2, 16
    total, scale = sum(lengths), 0.2
    torch.manual_seed(0)
    query = torch.randn(1, heads, total, width)
    key, value = torch.randn(2, 1, heads // groups, total, width)
    starts = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    out, _ = packed_attention_forward(
        torch.nn.Module(), query, key, value, None, scale, cu_seq_lens_q=starts, max_length_q=300, sliding_window=window
    )
    sequence = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    position = torch.arange(total)
    distance = position[:, None] - position
    seen = (distance >= 0) & (sequence[:, None] == sequence) & (distance < (window or total))
    score = (query @ key.repeat_interleave(groups, 1).transpose(2, 3) * scale).masked_fill(~seen, -torch.inf)
    expected = score.softmax(-1) @ value.repeat_interleave(groups, 1)
    torch.testing.assert_close(out, expected.transpose(1, 2), atol=1e-5, rtol=1e-5)
    if window is None:  # used on CUDA in float32
        padded = padded_attention((query[0], key[0], value[0]), starts, 300, scale)
        torch.testing.assert_close(padded, out[0], atol=1e-5, rtol=1e-5)
