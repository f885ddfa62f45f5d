"""Blockwise statistics and merged tiles against each statistic's definition in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.core.scoring.losses import STATISTICS
from s2l_ray.core.scoring.token_statistics import (
    TokenStatistics,
    merge_tiles,
    statistics_from_hidden,
    statistics_from_logits,
)

EVERYTHING = frozenset(STATISTICS) - {"loss"}


def definitions(logits_TV: torch.Tensor, target_T: torch.Tensor) -> TokenStatistics:
    probability_TV = logits_TV.double().softmax(1)
    own_T = probability_TV.gather(1, target_T[:, None])[:, 0]
    onehot_TV = torch.nn.functional.one_hot(target_T, logits_TV.shape[1])
    return {
        "nll": -logits_TV.double().log_softmax(1).gather(1, target_T[:, None])[:, 0],
        "mean_probability": own_T,
        "token_accuracy": (logits_TV.argmax(1) == target_T).double(),
        "mean_entropy": torch.special.entr(probability_TV).sum(1),
        "el2n": (probability_TV - onehot_TV).norm(dim=1),
    }


def check(values: TokenStatistics, expected: TokenStatistics, tolerance: float = 1e-5) -> None:
    for name in expected:
        torch.testing.assert_close(values[name].double(), expected[name], atol=tolerance, rtol=tolerance, msg=name)


@settings(max_examples=40)
@given(
    targets=st.integers(1, 40),
    vocabulary=st.integers(2, 900),
    scale=st.sampled_from([0.01, 1.0, 10.0, 60.0]),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_blockwise_statistics_match_their_definitions(
    targets: int, vocabulary: int, scale: float, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    head = torch.nn.Linear(24, vocabulary, bias=bias)
    hidden_TH, target_T = scale * torch.randn(targets, 24), torch.randint(vocabulary, (targets,))
    if scale > 1:  # tokens that the model is sure of
        target_T[::2] = head(hidden_TH).argmax(1)[::2]
    with torch.inference_mode():
        values = statistics_from_hidden(hidden_TH, head, target_T, EVERYTHING)
        check(values, definitions(head(hidden_TH), target_T), 1e-4)


def test_small_losses_are_accurate() -> None:
    """Losses of 1e-4 to 1e-9, where 1 - p in float32 has few digits left."""
    head = torch.nn.Linear(8, 50, bias=False)
    with torch.inference_mode():
        hidden_TH = torch.randn(20, 8)
        target_T = head(hidden_TH).argmax(1)
        hidden_TH *= torch.linspace(9, 20, 20)[:, None] / (head(hidden_TH).topk(2).values.diff().neg() + 1e-3)
        values = statistics_from_hidden(hidden_TH, head, target_T, EVERYTHING)
        expected = definitions(hidden_TH.double() @ head.weight.double().T, target_T)
    assert expected["nll"].min() < 1e-7
    for name in expected:
        torch.testing.assert_close(values[name].double(), expected[name], atol=0, rtol=1e-3, msg=name)


def test_only_requested_statistics_are_returned() -> None:
    head = torch.nn.Linear(8, 50)
    with torch.inference_mode():
        values = statistics_from_hidden(torch.randn(3, 8), head, torch.tensor([1, 2, 3]), frozenset({"el2n"}))
    assert set(values) == {"nll", "el2n"}


def test_impossible_token_has_infinite_loss() -> None:
    head = torch.nn.Linear(8, 50)
    with torch.inference_mode():
        head.bias[7] = -torch.inf
        hidden_TH, target_T = torch.randn(4, 8), torch.tensor([1, 7, 3, 49])
        values = statistics_from_hidden(hidden_TH, head, target_T, EVERYTHING)
        expected = definitions(head(hidden_TH), target_T)
    assert values["nll"][1] == torch.inf
    check(values, expected)


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_merged_tiles_match_the_definitions(scale: float) -> None:
    """Sums per tile of 64 entries against the tile's own maximum, as the kernel stores them."""
    torch.manual_seed(0)
    logits_TV, target_T = scale * torch.randn(30, 500), torch.randint(500, (30,))
    logits_TV[:, 64:128] = -torch.inf  # a tile of impossible tokens
    target_T[(target_T >= 64) & (target_T < 128)] = 3
    others_TV = logits_TV.scatter(1, target_T[:, None], -torch.inf)
    pieces: dict[str, list[torch.Tensor]] = {"maximum": [], "weight": [], "square": [], "weighted_gap": []}
    for tile in others_TV.split(64, dim=1):
        top_T = tile.amax(1)
        gap = tile - torch.where(top_T == -torch.inf, 0.0, top_T)[:, None]
        weight = gap.exp()
        sums = (top_T, weight.sum(1), weight.square().sum(1), (weight * gap.clamp(min=-1000)).sum(1))
        for name, value in zip(pieces, sums, strict=True):
            pieces[name].append(value)
    own_T = logits_TV.gather(1, target_T[:, None])[:, 0]
    values = merge_tiles({name: torch.stack(parts) for name, parts in pieces.items()}, own_T, EVERYTHING)
    check(values, definitions(logits_TV, target_T))
    check(statistics_from_logits(logits_TV, target_T, EVERYTHING), definitions(logits_TV, target_T))
