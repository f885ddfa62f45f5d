"""Outcome of one architecture: packed, padded or refused, and the largest error of a loss after a short training.

The oracle is the model's own forward pass over one row, without a mask, in float32.
"""

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import PreTrainedModel

from s2l_ray.core.causal_lm import init_model
from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.scoring.losses import ScoreOptions, choose_attention, per_example_loss, score_rows
from s2l_ray.core.training.finetune import Hooks, finetune
from s2l_ray.core.training.schedule import CheckpointGrid, FinetuneSettings
from tests.architectures.tiny_configs import VOCABULARY, tiny_config

STEPS, BATCH, ROWS = 25, 4, 20
SETTINGS = FinetuneSettings(
    epochs=STEPS * BATCH // ROWS,
    batch_size=BATCH,
    learning_rate=1e-2,
    warmup_ratio=0.0,
    weight_decay=0.0,
    max_grad_norm=1.0,
    precision="float32",
    grid=CheckpointGrid(steps=STEPS),
    seed=0,
    micro_batch=2,
)
OPTIONS = ScoreOptions(tokens_per_batch=512)


@dataclass(frozen=True)
class Outcome:
    """training, scoring: "packed", "padded", "single" or "refused". error: the largest of a mean loss, in nats."""

    architecture: str
    training: str
    scoring: str
    error: float
    reason: str
    seconds: float


def rows_of_all_lengths() -> TokenRows:
    """Rows of a learnable sequence, some longer than the attention window."""
    random = np.random.default_rng(0)
    lengths = random.integers(3, 40, ROWS)
    lengths[:3] = 4, 50, 80
    ids = [
        ((random.integers(VOCABULARY) + random.integers(1, 4) * np.arange(length)) % (VOCABULARY - 3) + 3).tolist()
        for length in lengths
    ]
    return TokenRows.from_rows(ids, [[(int(length) // 3, int(length))] for length in lengths])


def outcome_of(architecture: str) -> Outcome:
    """Train, choose the attention, score, and compare with batch size 1."""
    began, rows = time.perf_counter(), rows_of_all_lengths()
    trained: list[str] = []
    try:
        model = init_model(tiny_config(architecture), VOCABULARY, seed=0)
        hooks = Hooks(on_attention=lambda choice: trained.append(choice.attention))
        finetune(model, rows, TokenRows.from_rows([], []), SETTINGS, hooks)
        choice = choose_attention(model.eval(), rows, OPTIONS)
    except (ValueError, FloatingPointError) as error:
        return Outcome(architecture, "refused", "refused", float("nan"), str(error), time.perf_counter() - began)
    scored = score_rows(model, rows, options=replace(OPTIONS, attention=choice.attention))
    error = float(np.abs(scored["nll_sum"] / scored["target_tokens"] - batch_1_losses(model, rows)).max())
    return Outcome(architecture, trained[0], choice.attention, error, choice.reason, time.perf_counter() - began)


def batch_1_losses(model: PreTrainedModel, rows: TokenRows) -> np.ndarray:
    """Mean loss of each row by the model's own forward pass at batch size 1."""
    losses = []
    for index in range(len(rows)):
        row = rows.take([index])
        ids_1L = torch.from_numpy(row.ids_X.astype(np.int64))[None]
        labels_1L = torch.where(torch.from_numpy(row.target_mask_X)[None], ids_1L, -100)
        with torch.no_grad():
            nll_sum_B, tokens_B = per_example_loss(model(ids_1L, use_cache=False).logits, labels_1L)
        losses.append(float(nll_sum_B / tokens_B))
    return np.array(losses)
