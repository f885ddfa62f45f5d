"""Triton kernel for per-token statistics, for 16-bit weights on CUDA. Import it only where Triton is installed.

A program multiplies one tile of targets with one tile of the vocabulary, accumulates in float32 and reduces the tile
to a few sums per target relative to the tile's own maximum; no logit is written to memory. The tiles of a target are
merged afterwards in a fixed order and without atomics, so the same input gives the same bits.

T target tokens, V vocabulary, H hidden size, I tiles of the vocabulary
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"

from typing import Any

import torch
import triton
import triton.language as tl

from s2l_ray.core.scoring.token_statistics import TokenStatistics, merge_tiles

BLOCK_T, BLOCK_V, BLOCK_H, GROUP = 128, 256, 64, 8


@triton.jit
def _tile(
    hidden, weight, bias, target, maximum, weight_sum, square, weighted_gap, own,
    targets, vocabulary, hidden_size: tl.constexpr,
    HAS_BIAS: tl.constexpr, WITH_SQUARE: tl.constexpr, WITH_WEIGHTED: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    # GROUP tiles of targets visit the vocabulary together, so that a tile of weights is read from L2.
    tiles_t, tiles_v = tl.cdiv(targets, BLOCK_T), tl.cdiv(vocabulary, BLOCK_V)
    program = tl.program_id(0)
    first_t = program // (GROUP * tiles_v) * GROUP
    group_t = tl.minimum(tiles_t - first_t, GROUP)
    tile_t = first_t + program % (GROUP * tiles_v) % group_t
    tile_v = program % (GROUP * tiles_v) // group_t

    t = tile_t * BLOCK_T + tl.arange(0, BLOCK_T)
    v = tile_v * BLOCK_V + tl.arange(0, BLOCK_V)
    h = tl.arange(0, BLOCK_H)
    hidden_at = hidden + t[:, None].to(tl.int64) * hidden_size + h[None, :]
    weight_at = weight + v[None, :].to(tl.int64) * hidden_size + h[:, None]
    logit = tl.zeros((BLOCK_T, BLOCK_V), dtype=tl.float32)
    for start in range(0, hidden_size, BLOCK_H):
        inside = h < hidden_size - start
        left = tl.load(hidden_at + start, mask=(t < targets)[:, None] & inside[None, :], other=0.0)
        right = tl.load(weight_at + start, mask=(v < vocabulary)[None, :] & inside[:, None], other=0.0)
        logit = tl.dot(left, right, logit)
    if HAS_BIAS:
        logit += tl.load(bias + v, mask=v < vocabulary, other=0.0).to(tl.float32)[None, :]
    logit = tl.where((v < vocabulary)[None, :], logit, -float("inf"))

    is_own = v[None, :] == tl.load(target + t, mask=t < targets, other=-1)[:, None]
    own_here = tl.sum(tl.where(is_own, logit, 0.0), 1)
    tl.store(own + t, own_here, mask=(t < targets) & (tl.max(is_own.to(tl.int32), 1) > 0))
    logit = tl.where(is_own, -float("inf"), logit)

    top = tl.max(logit, 1)
    gap = logit - tl.where(top == -float("inf"), 0.0, top)[:, None]
    power = tl.exp2(gap * 1.4426950408889634)
    out = tile_v * targets + t
    tl.store(maximum + out, top, mask=t < targets)
    tl.store(weight_sum + out, tl.sum(power, 1), mask=t < targets)
    if WITH_SQUARE:
        tl.store(square + out, tl.sum(power * power, 1), mask=t < targets)
    if WITH_WEIGHTED:
        tl.store(weighted_gap + out, tl.sum(power * tl.maximum(gap, -1000.0), 1), mask=t < targets)


def triton_statistics_from_hidden(
    hidden_TH: torch.Tensor, head: torch.nn.Linear, target_T: torch.Tensor, statistics: frozenset[str]
) -> TokenStatistics:
    """Same result as `statistics_from_hidden`, to rounding."""
    targets, (vocabulary, hidden_size) = len(target_T), head.weight.shape
    tiles_v = triton.cdiv(vocabulary, BLOCK_V)
    sums = ["maximum", "weight"]
    sums += ["square"] * ("el2n" in statistics) + ["weighted_gap"] * ("mean_entropy" in statistics)
    tiles = {name: hidden_TH.new_empty(tiles_v, targets, dtype=torch.float32) for name in sums}
    own_T = hidden_TH.new_empty(targets, dtype=torch.float32)
    unread = own_T  # for pointers that the kernel does not read
    kernel: Any = _tile
    kernel[(triton.cdiv(targets, BLOCK_T) * tiles_v,)](
        hidden_TH.contiguous(),
        head.weight.contiguous(),
        unread if head.bias is None else head.bias,
        target_T,
        tiles["maximum"],
        tiles["weight"],
        tiles.get("square", unread),
        tiles.get("weighted_gap", unread),
        own_T,
        targets,
        vocabulary,
        hidden_size=hidden_size,
        HAS_BIAS=head.bias is not None,
        WITH_SQUARE="square" in tiles,
        WITH_WEIGHTED="weighted_gap" in tiles,
        BLOCK_T=BLOCK_T,
        BLOCK_V=BLOCK_V,
        BLOCK_H=BLOCK_H,
        GROUP=GROUP,
        num_warps=8,
        num_stages=3,
    )
    return merge_tiles(tiles, own_T, statistics)
