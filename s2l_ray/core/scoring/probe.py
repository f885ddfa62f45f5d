"""Probe rows for the checks of a model, and tests of what its outputs depend on.

X tokens of one sequence, H width of the outputs, M usable rows
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from transformers import PreTrainedModel

from s2l_ray.core.arrays import Int64
from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.model_config import max_positions

PROBE_ROWS = 8
# Outputs may change by this share of their largest value where other tokens lead to products of other shapes, as in
# mixtures of experts.
ROUNDING = 1e-5

Outputs = Callable[[torch.Tensor], torch.Tensor]


def probe_rows(model: PreTrainedModel, rows: TokenRows) -> TokenRows:
    """PROBE_ROWS rows spread evenly over the lengths, up to the longest that fits the model's positions."""
    usable_M = np.flatnonzero((rows.target_tokens_N > 0) & (rows.lengths_N <= max_positions(model.config)))
    usable_M = usable_M[np.argsort(rows.lengths_N[usable_M], kind="stable")]
    spread = np.linspace(0, len(usable_M) - 1, min(PROBE_ROWS, len(usable_M))).round().astype(np.int64)
    return rows.take(usable_M[spread])


def first_tokens(rows: TokenRows, index: int, limit: int) -> Int64:
    """Ids of the first `limit` tokens of a row."""
    start, length = rows.starts_N1[index], min(int(rows.lengths_N[index]), limit)
    return rows.ids_X[start : start + length].astype(np.int64)


@contextmanager
def float32_weights(model: PreTrainedModel) -> Iterator[None]:
    """Run the block with float32 copies of the weights, then restore the original tensors."""
    originals = [(parameter, parameter.data) for parameter in model.parameters()]
    try:
        for parameter, data in originals:
            parameter.data = data.float()
        yield
    finally:
        for parameter, data in originals:
            parameter.data = data


def replace_tokens(ids_X: Int64, replaced: slice, vocab_size: int) -> Int64:
    """A copy of ids_X in which every token of the slice is another one, drawn by a fixed seed."""
    random = np.random.default_rng(0)
    other_X = ids_X.copy()
    other_X[replaced] = (ids_X[replaced] + random.integers(1, vocab_size, len(ids_X[replaced]))) % vocab_size
    return other_X


def depends_on(model: PreTrainedModel, outputs: Outputs, ids_X: Int64, replaced: slice, kept: slice) -> bool:
    """Whether outputs(ids_X)[kept] depend on the tokens at `replaced`.

    They are independent if other tokens there change them by rounding at most and their gradient with respect to the
    embeddings there is exactly zero. The gradient finds influences that are still below rounding in an untrained
    model; the tokens find those without gradient. Raises whatever the model raises.
    """
    vocab_size = model.config.get_text_config().vocab_size
    other_X = replace_tokens(ids_X, replaced, vocab_size)
    own, other = (torch.from_numpy(ids).to(model.device) for ids in (ids_X, other_X))
    embedded: list[torch.Tensor] = []

    def keep_embedded(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1].clone()  # a leaf may not be changed in place

    handle = model.get_input_embeddings().register_forward_hook(keep_embedded)
    try:
        with torch.enable_grad():
            own_XH = outputs(own)[kept].float()
            generator = torch.Generator().manual_seed(0)
            weight_XH = torch.randn(own_XH.shape, generator=generator).to(own_XH.device)
            (gradient,) = torch.autograd.grad((own_XH * weight_XH).sum(), embedded[0])
    finally:
        handle.remove()
    with torch.no_grad():
        change = (outputs(other)[kept].float() - own_XH).abs().max()
    is_rounding = bool(change <= ROUNDING * own_XH.abs().max())
    return not is_rounding or bool(gradient.reshape(len(ids_X), -1)[replaced].any())
