"""Scoring and k-means on a CUDA device: `python -m bench.gpu [--data FOLDER]`. Needs torch and transformers alone.

Models of 70, 160 and 410 M parameters with random weights score the same rows in bfloat16: ours, the sorted batched
loop of the peers, and over a few hundred of the rows the official loop in float32. The rate of an 8192^3 product is
measured in the same rounds. A Lloyd iteration over 1e7 x 60 is held against the time that its memory traffic or its
arithmetic takes on this device, whichever is longer. Exits with 1 if a goal in the column "must" is missed; on a CPU
there are no goals of speed.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from bench import pool, scoring_peers
from bench.rounds import RESULTS, Report, Row, ratios, take_turns
from bench.scoring_models import random_model, useful_flops
from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.kmeans.fit import KMeansOptions, fit_kmeans
from s2l_ray.core.scoring.losses import ScoreOptions, choose_attention, score_rows

SIDE, PRODUCTS = 8192, 20
PEER_BATCH = 64
COLUMNS = 60
SHARES = {"70M": (0.35, 0.50), "160M": (0.45, 0.55), "410M": (0.50, 0.60)}
LLOYD = {100: (2.5, 1.5), 1000: (3.0, 1.5)}


def finished(way: Callable[[], object]) -> Callable[[], None]:
    """The same, returning when the device has done it."""

    def run() -> None:
        way()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return run


def seconds_of(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Wall seconds by way, after one round to warm up."""
    on_device = {name: finished(way) for name, way in ways.items()}
    take_turns(on_device, 1)
    return {name: [run.wall for run in runs] for name, runs in take_turns(on_device, rounds).items()}


def repeated(way: Callable[[], object], times: int) -> Callable[[], None]:
    """The way, so often in a row."""

    def run() -> None:
        for _ in range(times):
            way()

    return run


def report_scoring(
    report: Report, size: str, rows: TokenRows, few: TokenRows, options: ScoreOptions, rounds: int
) -> None:
    """One model size: how near to exact, how much faster than the peers, which share of the product's rate.

    few: the rows of the official loop.
    """
    device = str(report.settings["device"])
    exact, model = random_model(size).to(device), random_model(size, torch.bfloat16).to(device)
    report_accuracy(report, size, exact, model, few, options)
    side = SIDE if device == "cuda" else 256
    left, right = torch.randn(2, side, side, device=device).bfloat16()
    ways: dict[str, Callable[[], object]] = {
        "ours": partial(score_rows, model, rows, options=options),
        "sorted batched loop": partial(scoring_peers.harness, model, rows, PEER_BATCH),
        "official": partial(scoring_peers.official, exact, few),
        "product": repeated(partial(torch.mm, left, right), PRODUCTS),
    }
    seconds = seconds_of(ways, rounds)
    report.seconds |= {f"{size}: {name}": values for name, values in seconds.items()}
    official = [each * float(rows.lengths_N.sum() / few.lengths_N.sum()) for each in seconds["official"]]
    judged = size == "70M" and device == "cuda"
    report.add(
        Row(
            f"{size}: vs the official loop, by tokens",
            ratios(official, seconds["ours"]),
            *((40, 100) if judged else ()),
        )
    )
    peer = ratios(seconds["sorted batched loop"], seconds["ours"])
    report.add(Row(f"{size}: vs the sorted batched loop, bfloat16", peer, *((2.5, 3.5) if judged else ())))
    rate = [2 * side**3 * PRODUCTS / each for each in seconds["product"]]
    share = [useful_flops(model, rows) / ours / product for ours, product in zip(seconds["ours"], rate, strict=True)]
    report.add(Row(f"  {size}: TFLOP/s of the product", [each / 1e12 for each in rate]))
    report.add(Row(f"{size}: share of the product's rate", share, *(SHARES.get(size, ()) if device == "cuda" else ())))


def report_accuracy(
    report: Report, size: str, exact: PreTrainedModel, model: PreTrainedModel, rows: TokenRows, options: ScoreOptions
) -> None:
    """Differences of mean loss from the official loop; the way that each dtype takes."""
    expected = scoring_peers.official(exact, rows)
    for each, dtype, goal in ((exact, "float32", (10, 10)), (model, "bfloat16", ())):
        choice = choose_attention(each, rows, ScoreOptions(options.tokens_per_batch, dtype))
        scored = score_rows(
            each, rows, options=ScoreOptions(options.tokens_per_batch, dtype, attention=choice.attention)
        )
        difference = 1e6 * np.abs(scored["nll_sum"] / scored["target_tokens"] - expected)
        name = f"{size} {dtype} ({choice.attention})"
        largest = [float(difference.max())]
        report.add(Row(f"{name}: largest difference from official, 1e-6 nats", largest, *goal, lower_is_better=True))
        report.add(Row(f"{name}: mean difference from official, 1e-6 nats", [float(difference.mean())]))


def report_lloyd(report: Report, rows: int, clusters: int, rounds: int) -> None:
    """A full pass, from the difference of fits with four passes and one, over its floor on this device."""
    random = np.random.default_rng(0)
    x_NT = random.standard_normal((rows, COLUMNS), dtype=np.float32)
    start_KT = x_NT[random.choice(rows, clusters, replace=False)]
    device = str(report.settings["device"])
    on_device = torch.from_numpy(x_NT).to(device)
    left, right = torch.randn(rows // 10, COLUMNS, device=device), torch.randn(COLUMNS, clusters, device=device)
    ways = {
        "one": partial(fit, x_NT, start_KT, 1),
        "four": partial(fit, x_NT, start_KT, 4),
        "read": repeated(on_device.sum, 10),
        "product": repeated(partial(torch.mm, left, right), 10),
    }
    seconds = seconds_of(ways, rounds)
    case = f"{rows:.0e} x {COLUMNS}, K={clusters}"
    report.seconds |= {f"{case}: {name}": values for name, values in seconds.items()}
    floor = [max(read / 10, product) for read, product in zip(seconds["read"], seconds["product"], strict=True)]
    passes = [(four - one) / 3 for four, one in zip(seconds["four"], seconds["one"], strict=True)]
    goals = LLOYD[clusters] if device == "cuda" else ()
    report.add(Row(f"Lloyd iteration over its floor, {case}", ratios(passes, floor), *goals, lower_is_better=True))


def fit(x_NT: NDArray[np.float32], start_KT: NDArray[np.float32], passes: int) -> None:
    """The torch backend, which takes the device."""
    options = KMeansOptions(iterations=passes, backend="torch")
    fit_kmeans(x_NT, len(start_KT), seed=0, options=options, initial_centroids_KT=start_KT)


def main(arguments: list[str]) -> int:
    """Run all, print the table, write bench/results/gpu.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu")
    parser.add_argument("--data", type=Path, help="folder with train/ and tokenizers/; synthetic rows without it")
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--tokens", type=int, default=65536, help="tokens of a batch")
    parser.add_argument("--lloyd-rows", type=int, default=10_000_000)
    parser.add_argument("--official-rows", type=int, default=300, help="rows of the official loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", nargs="*", default=list(SHARES))
    parser.add_argument("--device", default="cuda", help="cpu tries the script itself out")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("bench.gpu needs a CUDA device, and this machine has none; --device cpu tries the script out")
    if given.data:
        from bench.tokenizing import real_rows

        rows = real_rows(given.data, given.rows)
    else:
        rows = pool.synthetic_rows(given.rows)
    name = torch.cuda.get_device_name() if given.device == "cuda" else "none"
    settings = vars(given) | {"data": str(given.data), "results": str(given.results), "device_name": name}
    report = Report("gpu", settings, ["torch", "transformers", "triton", "numpy"])
    options = ScoreOptions(given.tokens, "bfloat16")
    chosen = np.random.default_rng(0).choice(len(rows), min(given.official_rows, len(rows)), replace=False)
    for size in given.sizes:
        report_scoring(report, size, rows, rows.take(chosen), options, given.rounds)
    for clusters in LLOYD:
        report_lloyd(report, given.lloyd_rows, clusters, given.rounds)
    return report.finish(given.results / ("gpu.json" if given.device == "cuda" else "gpu-tryout.json"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
