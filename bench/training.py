"""The proxy's training steps beside a padded loop: `python -m bench.training [--data FOLDER]`.

A GPT-NeoX of 70 M parameters with random weights takes the same optimiser steps over the same rows in every way, in one
process, the ways taking turns. The padded loop is written as transformers' Trainer works by default: rows in random
order, padded to the longest of the micro batch, labels masked, `.loss` of whole logits, AdamW. A second one sorts each
batch by length first (`group_by_length`). One thread is judged by processor time, all threads are reported by wall
time. The gradients of ours and of the model's own forward pass are compared first. Exits with 1 if a goal in the column
"must" is missed.
"""

import argparse
import copy
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from bench import pool, tokenizing
from bench.rounds import RESULTS, Report, Row, Timing, now, passed, ratios, take_turns
from bench.scoring import has_bfloat16
from bench.scoring_models import random_model
from s2l_ray.core.data.token_rows import TokenRows, collate
from s2l_ray.core.training.finetune import Hooks, finetune
from s2l_ray.core.training.packed_check import choose_training_attention
from s2l_ray.core.training.schedule import CheckpointGrid, FinetuneSettings, batch_indices

BATCH, MICRO_BATCH, RATE = 24, 8, 2e-5
NOTHING_HELD_OUT = TokenRows.from_rows([], [])
MUST, AFTER = 1.2, 1.6


def settings(precision: str) -> FinetuneSettings:
    """One epoch; no checkpoint but the first."""
    return FinetuneSettings(
        epochs=1,
        batch_size=BATCH,
        learning_rate=RATE,
        warmup_ratio=0.03,
        weight_decay=0.0,
        max_grad_norm=1.0,
        precision="bfloat16" if precision == "bfloat16" else "float32",
        grid=CheckpointGrid(steps=10**9),
        seed=0,
        micro_batch=MICRO_BATCH,
    )


def ours(model: PreTrainedModel, rows: TokenRows, precision: str) -> Timing:
    """The loop that trains the proxy, timed from the checkpoint before its first step on: the proof comes once."""
    begun: list[Timing] = []
    hooks = Hooks(on_checkpoint=lambda record, weights: begun.append(now()))
    finetune(copy.deepcopy(model), rows, NOTHING_HELD_OUT, settings(precision), hooks)
    return passed(begun[0])


def padded(model: PreTrainedModel, rows: TokenRows, precision: str, by_length: bool) -> Timing:
    """As many steps of a loop as it is usually written."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0, fused=True)
    begun = now()
    for step in range(-(-len(rows) // BATCH)):
        batch_B = batch_indices(len(rows), BATCH, 0, step, 0)
        if by_length:
            batch_B = batch_B[np.argsort(rows.lengths_N[batch_B], kind="stable")]
        pieces = [batch_B[first : first + MICRO_BATCH] for first in range(0, len(batch_B), MICRO_BATCH)]
        for piece_B in pieces:
            (_loss(model, rows, piece_B, precision) / len(pieces)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return passed(begun)


def _loss(model: PreTrainedModel, rows: TokenRows, piece_B: NDArray[np.int64], precision: str) -> torch.Tensor:
    batch = collate(rows, piece_B)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        loss: torch.Tensor = model(
            input_ids=batch.input_ids_BL,
            attention_mask=batch.attention_mask_BL,
            labels=batch.labels_BL,
            use_cache=False,
        ).loss
    return loss


def contestants(model: PreTrainedModel, rows: TokenRows, precision: str) -> dict[str, Callable[[], object]]:
    """Every way by name."""
    return {
        "ours": partial(ours, model, rows, precision),
        "padded": partial(padded, model, rows, precision, False),
        "padded, by length": partial(padded, model, rows, precision, True),
    }


def report_speed(report: Report, model: PreTrainedModel, rows: TokenRows, rounds: int, threads: int) -> None:
    """Ratios to both loops on so many threads."""
    torch.set_num_threads(threads)
    one = threads == 1
    case = "one thread" if one else f"{threads} threads, wall"
    for precision in ("float32", "bfloat16"):
        timings = take_turns(contestants(model, rows, precision), rounds)
        seconds: Mapping[str, list[float]] = {
            name: [run.cpu if one else run.wall for run in runs] for name, runs in timings.items()
        }
        report.seconds |= {f"{case}, {precision}: {name}": list(values) for name, values in seconds.items()}
        judged = one and (precision == "float32" or has_bfloat16())
        for peer in ("padded", "padded, by length"):
            goal = (MUST, AFTER) if judged and peer == "padded" else (None, None)
            report.add(Row(f"ours vs {peer}, {precision}, {case}", ratios(seconds[peer], seconds["ours"]), *goal))


def main(arguments: list[str]) -> int:
    """Run all, print the table, write bench/results/training.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.training")
    parser.add_argument("--data", type=Path, help="folder with train/ and tokenizers/; synthetic rows without it")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    rows = tokenizing.real_rows(given.data, given.rows) if given.data else pool.synthetic_rows(given.rows)
    model = random_model("70M")
    choices = {
        precision: choose_training_attention(model, rows, settings(precision)) for precision in ("float32", "bfloat16")
    }
    facts = {
        "rows": len(rows),
        "tokens": int(rows.lengths_N.sum()),
        "target_tokens": int(rows.target_tokens_N.sum()),
        "batch": BATCH,
        "micro_batch": MICRO_BATCH,
        "real_rows": given.data is not None,
        "bfloat16_instructions": has_bfloat16(),
        "attention": {precision: vars(choice) for precision, choice in choices.items()},
    }
    report = Report("training", facts, ["torch", "transformers", "numpy"])
    for precision, choice in choices.items():
        difference = choice.difference
        name = f"relative difference of gradients, {precision} ({choice.attention})"
        report.add(Row(name, [float("nan") if difference is None else difference]))
    report_speed(report, model, rows, given.rounds, 1)
    if (threads := os.cpu_count() or 1) > 1:
        report_speed(report, model, rows, 1, threads)
    return report.finish(RESULTS / "training.json")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
