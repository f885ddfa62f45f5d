"""Per-token statistics of the predicted distribution, computed over blocks of the vocabulary.

Logits are computed one block at a time, small enough to stay in cache, and added to running sums, as an online softmax
does. The sums are relative to the target's own logit, which is known beforehand, so no extra pass finds a maximum. If
they overflow (at a loss of about 88 nats), the token is recomputed from full logits. The target itself is excluded
from the sums, since its rounding error would hide a loss near 0. Statistics that are not requested cost nothing.

T target tokens, V vocabulary, W width of a block, H hidden size, I tiles of the vocabulary
"""

import math

import torch
from torch.nn.functional import linear

# float32 [T] by statistic, always with `nll`; T runs over target tokens, row after row.
TokenStatistics = dict[str, torch.Tensor]

LOG2_E = math.log2(math.e)
# A gap whose weight is 0 in float32. Smaller gaps such as -inf would make 0 * gap NaN.
MIN_GAP = -1000.0

BLOCK_LOGITS = {"cpu": 2**20, "cuda": 2**26}


class SoftmaxSums:
    """Sums over all tokens but the target, float64 [T]: of w = exp(g), w^2 and w g, and the largest g.

    g = l - c is the gap between a logit and a reference c, which is constant for each target; own_gap is the gap of
    the target. A sum that `statistics` does not need stays 0.
    """

    def __init__(self, own_gap_T: torch.Tensor, statistics: frozenset[str]) -> None:
        self.statistics = statistics
        self.own_gap_T = own_gap_T
        self.weight_T, self.square_T, self.weighted_gap_T = (torch.zeros_like(own_gap_T) for _ in range(3))
        self.largest_gap_T = torch.full_like(own_gap_T, -torch.inf)

    def add(self, gap_WT: torch.Tensor) -> None:
        """Add a block of gaps, without those of the targets. Overwrites gap_WT."""
        if "token_accuracy" in self.statistics:
            self.largest_gap_T = torch.maximum(self.largest_gap_T, gap_WT.amax(dim=0).double())
        # exp2 is vectorised in every build of torch; exp is three times slower on some processors.
        gap_WT.mul_(LOG2_E)
        if "mean_entropy" in self.statistics:
            gap_WT.clamp_(min=MIN_GAP)
            weight_WT = gap_WT.exp2()
            self.weighted_gap_T += gap_WT.mul_(weight_WT).sum(dim=0) / LOG2_E
        else:
            weight_WT = gap_WT.exp2_()
        self.weight_T += weight_WT.sum(dim=0)
        if "el2n" in self.statistics:
            self.square_T += weight_WT.square_().sum(dim=0)

    def to_statistics(self) -> TokenStatistics:
        own_weight_T = self.own_gap_T.exp()
        total_T = own_weight_T + self.weight_T
        values = {"nll": (total_T.log() - self.own_gap_T).clamp(min=0)}
        if "mean_probability" in self.statistics:
            values["mean_probability"] = own_weight_T / total_T
        if "token_accuracy" in self.statistics:
            values["token_accuracy"] = self.largest_gap_T <= self.own_gap_T
        if "mean_entropy" in self.statistics:
            mean_gap_T = (self.weighted_gap_T + own_weight_T * self.own_gap_T) / total_T
            values["mean_entropy"] = total_T.log() - mean_gap_T
        if "el2n" in self.statistics:
            # ||p - onehot||^2 = (1 - p_target)^2 + sum of the other p^2
            values["el2n"] = (self.weight_T.square() + self.square_T).sqrt() / total_T
        return {name: value_T.float() for name, value_T in values.items()}


def statistics_from_hidden(
    hidden_TH: torch.Tensor, head: torch.nn.Linear, target_T: torch.Tensor, statistics: frozenset[str]
) -> TokenStatistics:
    """Statistics of softmax(head(hidden)) at the targets, without full logits in memory."""
    own_T = (hidden_TH.float() * head.weight[target_T].float()).sum(dim=1)
    if head.bias is not None:
        own_T = own_T + head.bias[target_T].float()
    # Subtracted inside the product, before its result is rounded: the logits that weigh most keep the most digits.
    shift_T = (-own_T).to(hidden_TH.dtype)
    sums = SoftmaxSums((own_T + shift_T).double(), statistics)
    width = max(256, BLOCK_LOGITS[hidden_TH.device.type] // max(1, len(target_T)))
    for start in range(0, len(head.weight), width):
        gap_WT = linear(head.weight[start : start + width], hidden_TH, shift_T).float()
        if head.bias is not None:
            gap_WT += head.bias[start : start + width, None]
        _exclude_targets(gap_WT, target_T - start)
        sums.add(gap_WT)
    values = sums.to_statistics()
    overflow_T = ~torch.stack(list(values.values())).isfinite().all(dim=0)
    if overflow_T.any():
        for at_T in overflow_T.nonzero()[:, 0].split(256):
            for name, exact_T in statistics_from_logits(head(hidden_TH[at_T]), target_T[at_T], statistics).items():
                values[name][at_T] = exact_T
    return values


def _exclude_targets(gap_WT: torch.Tensor, column_T: torch.Tensor) -> None:
    """Set the gap of each target to -inf if its column is in the block."""
    inside_T = (column_T >= 0) & (column_T < len(gap_WT))
    column_1T = column_T.clamp(0, len(gap_WT) - 1)[None]
    gap_WT.scatter_(0, column_1T, gap_WT.gather(0, column_1T).masked_fill(inside_T, -torch.inf))


def merge_tiles(tiles: dict[str, torch.Tensor], own_T: torch.Tensor, statistics: frozenset[str]) -> TokenStatistics:
    """Statistics from sums over tiles of the vocabulary, without the target, relative to each tile's maximum.

    own_T: the targets' logits. tiles: float32 [I, T] named maximum and weight, also square for el2n and weighted_gap
    for mean_entropy.
    """
    top_IT, own_T = tiles["maximum"].double(), own_T.double()
    largest_T = top_IT.amax(dim=0)
    reference_T = torch.maximum(largest_T, own_T)
    drop_IT = (top_IT - reference_T).clamp(min=MIN_GAP)
    scale_IT = drop_IT.exp()
    weight_IT = tiles["weight"] * scale_IT
    sums = SoftmaxSums(own_T - reference_T, statistics)
    sums.weight_T, sums.largest_gap_T = weight_IT.sum(dim=0), largest_T - reference_T
    if "el2n" in statistics:
        sums.square_T = (tiles["square"] * scale_IT.square()).sum(dim=0)
    if "mean_entropy" in statistics:
        sums.weighted_gap_T = (tiles["weighted_gap"] * scale_IT + weight_IT * drop_IT).sum(dim=0)
    return sums.to_statistics()


def statistics_from_logits(
    logits_TV: torch.Tensor, target_T: torch.Tensor, statistics: frozenset[str]
) -> TokenStatistics:
    """Statistics of softmax(logits) at the targets, each by its definition, in float32."""
    logprob_TV = logits_TV.float().log_softmax(dim=1)
    own_T = logprob_TV.gather(1, target_T[:, None])[:, 0]
    values = {"nll": -own_T}
    if "mean_probability" in statistics:
        values["mean_probability"] = own_T.exp()
    if "token_accuracy" in statistics:
        values["token_accuracy"] = (own_T >= logprob_TV.amax(dim=1)).float()
    if statistics & {"mean_entropy", "el2n"}:
        probability_TV = logprob_TV.exp()
    if "mean_entropy" in statistics:
        values["mean_entropy"] = torch.special.entr(probability_TV).sum(dim=1)
    if "el2n" in statistics:
        probability_TV.scatter_add_(1, target_T[:, None], -torch.ones_like(own_T)[:, None])
        values["el2n"] = probability_TV.norm(dim=1)
    return values
