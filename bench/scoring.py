"""Scoring beside what users would run instead: `python -m bench.scoring [--data FOLDER]`.

A GPT-NeoX of 70 M parameters with random weights scores the same rows in every way, in one process, the ways taking
turns. One thread is judged by processor time, all threads are reported by wall time. The rate of a matrix product is
measured in the same rounds: of the products torch offers for a dtype the faster one counts. Then what one more
checkpoint costs, and tokenising once against once a checkpoint. Exits with 1 if a goal in the column "must" is missed.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from torch.nn.functional import linear
from transformers import PreTrainedModel

from bench import pool, scoring_peers, tokenizing
from bench.rounds import RESULTS, Report, Row, ratios, take_turns
from bench.scoring_models import random_model, useful_flops
from s2l_ray.core.causal_lm import save_model, swap_weights
from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.onednn_linear import OneDnnLinearMode
from s2l_ray.core.scoring.losses import ScoreOptions, choose_attention, score_rows

SIDE, PRODUCTS = 2048, 6
CHECKPOINTS = 12
OURS = {"ours, float32": "float32", "ours, bfloat16": "bfloat16"}
GOALS: Mapping[tuple[str, str], tuple[float, float]] = {
    ("ours, float32", "official"): (1.5, 1.7),
    ("ours, bfloat16", "official"): (2.8, 3.3),
    ("ours, bfloat16", "padded 16"): (4.5, 5.5),
    ("ours, bfloat16", "harness"): (2.8, 3.5),
}
SHARES = {"float32": (0.80, 0.90), "bfloat16": (0.65, 0.75)}


def mean_loss(model: PreTrainedModel, rows: TokenRows, options: ScoreOptions) -> scoring_peers.Losses:
    """Our way."""
    scored = score_rows(model, rows, options=options)
    return np.asarray(scored["nll_sum"] / scored["target_tokens"])


def products(dtype: torch.dtype, full_width: bool) -> Callable[[], None]:
    """Square products in a row: by torch's own choice of library, or as our float32 scoring does them."""
    left, right = torch.randn(2, SIDE, SIDE).to(dtype)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(PRODUCTS):
                if full_width:
                    with OneDnnLinearMode(frozen_weights=False):
                        linear(left, right)
                else:
                    torch.mm(left, right)

    return run


def contestants(
    models: Mapping[str, PreTrainedModel], rows: TokenRows, all_peers: bool
) -> dict[str, Callable[[], object]]:
    """Every way by name."""
    ways: dict[str, Callable[[], object]] = {}
    for name, dtype in OURS.items():
        ways[name] = partial(mean_loss, models[dtype], rows, ScoreOptions(dtype=dtype))
    ways["official"] = partial(scoring_peers.official, models["float32"], rows)
    ways["padded 16"] = partial(scoring_peers.padded, models["float32"], rows)
    ways["harness"] = partial(scoring_peers.harness, models["float32"], rows)
    if all_peers:
        ways["harness, bfloat16"] = partial(scoring_peers.harness, models["bfloat16"], rows)
        ways["official, bfloat16"] = partial(scoring_peers.official, models["bfloat16"], rows)
    ways["product float32, torch.mm"] = products(torch.float32, False)
    ways["product float32, oneDNN"] = products(torch.float32, True)
    ways["product bfloat16, torch.mm"] = products(torch.bfloat16, False)
    return ways


def report_speed(
    report: Report, models: Mapping[str, PreTrainedModel], rows: TokenRows, rounds: int, threads: int
) -> dict[str, list[float]]:
    """Ratios to every peer and shares of the product rate, on so many threads. Returns seconds by way."""
    torch.set_num_threads(threads)
    one = threads == 1
    timings = take_turns(contestants(models, rows, one), rounds)
    seconds = {name: [run.cpu if one else run.wall for run in runs] for name, runs in timings.items()}
    case = "one thread" if one else f"{threads} threads, wall"
    report.seconds |= {f"{case}: {name}": values for name, values in seconds.items()}
    for ours, dtype in OURS.items():
        judged = one and (dtype == "float32" or has_bfloat16())
        for peer in (name for name in seconds if name not in OURS and not name.startswith("product")):
            goal = GOALS.get((ours, peer)) if judged else None
            report.add(Row(f"{ours} vs {peer}, {case}", ratios(seconds[peer], seconds[ours]), *(goal or (None, None))))
        report_shares(report, useful_flops(models[dtype], rows), seconds, ours, judged, case)
    return seconds


def report_shares(
    report: Report, flops: float, seconds: Mapping[str, list[float]], ours: str, judged: bool, case: str
) -> None:
    """Our rate over that of a square product, of torch.mm and of the fastest."""
    dtype = OURS[ours]
    rates = {
        name: 2 * SIDE**3 * PRODUCTS / np.array(runs) for name, runs in seconds.items() if f"product {dtype}" in name
    }
    our_rate = flops / np.array(seconds[ours])
    for name, rate in rates.items():
        report.add(Row(f"  GFLOP/s, {name}, {case}", (rate / 1e9).tolist()))
    best = np.max(list(rates.values()), axis=0)
    must, after = SHARES[dtype] if judged else (None, None)
    report.add(Row(f"{ours}: share of the fastest product's rate, {case}", (our_rate / best).tolist(), must, after))


def report_accuracy(report: Report, models: Mapping[str, PreTrainedModel], rows: TokenRows) -> None:
    """Differences of mean loss from the official loop in float32."""
    expected = scoring_peers.official(models["float32"], rows)
    for name, dtype in OURS.items():
        difference = 1e6 * np.abs(mean_loss(models[dtype], rows, ScoreOptions(dtype=dtype)) - expected)
        goal = (10, 10) if dtype == "float32" else (None, None)
        report.add(
            Row(
                f"{name}: largest difference from official, 1e-6 nats",
                [float(difference.max())],
                *goal,
                lower_is_better=True,
            )
        )
        report.add(Row(f"{name}: mean difference from official, 1e-6 nats", [float(difference.mean())]))


def report_checkpoint(report: Report, model: PreTrainedModel, scoring: list[float], rows: int) -> None:
    """Weights of another checkpoint put into the model, over scoring 1000 rows with it; one thread."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder))
        timings = take_turns({"swap": partial(swap_weights, model, Path(folder))}, 3)["swap"]
    report.seconds["swap_weights"] = [run.cpu for run in timings]
    each = np.median(scoring) / rows * 1000
    report.add(
        Row(
            "one more checkpoint over scoring 1000 rows in bfloat16",
            [float(run.cpu / each) for run in timings],
            0.03,
            0.01,
            lower_is_better=True,
        )
    )


def report_tokenizing(report: Report, data: Path) -> None:
    """Examples formed and tokenised once, against the official way once a checkpoint."""
    timings = take_turns(tokenizing.contestants(data, 2000), 3)
    seconds = {name: [run.cpu for run in runs] for name, runs in timings.items()}
    report.seconds |= {f"tokenizing: {name}": values for name, values in seconds.items()}
    times_T = [CHECKPOINTS * ratio for ratio in ratios(seconds["official"], seconds["ours"])]
    name = f"tokenising once vs official, {CHECKPOINTS} checkpoints"
    report.add(Row(name, times_T, 2.5 * CHECKPOINTS, 3.3 * CHECKPOINTS))


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 by instruction."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def main(arguments: list[str]) -> int:
    """Run all, print the table, write bench/results/scoring.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.scoring")
    parser.add_argument("--data", type=Path, help="folder with train/ and tokenizers/; synthetic rows without it")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    rows = tokenizing.real_rows(given.data, given.rows) if given.data else pool.synthetic_rows(given.rows)
    models = {"float32": random_model("70M"), "bfloat16": random_model("70M", torch.bfloat16)}
    choices = {dtype: choose_attention(model, rows, ScoreOptions(dtype=dtype)) for dtype, model in models.items()}
    settings = {
        "rows": len(rows),
        "tokens": int(rows.lengths_N.sum()),
        "target_tokens": int(rows.target_tokens_N.sum()),
        "real_rows": given.data is not None,
        "bfloat16_instructions": has_bfloat16(),
        "attention": {dtype: vars(choice) for dtype, choice in choices.items()},
    }
    report = Report("scoring", settings, ["torch", "transformers", "numpy"])
    torch.set_num_threads(1)
    report_accuracy(report, models, rows)
    seconds = report_speed(report, models, rows, given.rounds, 1)
    report_checkpoint(report, models["bfloat16"], seconds["ours, bfloat16"], len(rows))
    if given.data:
        report_tokenizing(report, given.data)
    else:
        report.skip("tokenising", "needs --data")
    if (threads := os.cpu_count() or 1) > 1:
        report_speed(report, models, rows, 1, threads)
    return report.finish(RESULTS / "scoring.json")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
