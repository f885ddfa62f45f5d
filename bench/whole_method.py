"""S2L from tokens to a subset in one process, without Ray: seconds of each stage.

    python -m bench.whole_method --write-tokens tokens.npz --data FOLDER     # tokenize mathmix, on any machine
    python -m bench.whole_method --tokens tokens.npz --size 70M              # train, score, cluster, select

Needs torch and transformers alone. The proxy has random weights; it is trained in bfloat16 for three epochs, and every
row is scored at T checkpoints and before training, in bfloat16 or, with `--score-dtype float32`, as a job does by
default. N rows.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from transformers import PreTrainedModel

from bench import pool
from bench.rounds import RESULTS, Report, Row
from bench.scoring_models import SIZES, random_model
from s2l_ray.core.arrays import Float32, Int32
from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.kmeans.fit import assign_clusters, fit_kmeans
from s2l_ray.core.scoring.losses import ScoreOptions, choose_attention, score_rows
from s2l_ray.core.selection.balancing import balanced_sample
from s2l_ray.core.training.finetune import Hooks, Weights, finetune
from s2l_ray.core.training.records import CheckpointRecord
from s2l_ray.core.training.schedule import CheckpointGrid, FinetuneSettings

COLUMNS = ("ids_X", "starts_N1", "spans_S2", "span_starts_N1")
T = TypeVar("T")
NOTHING_HELD_OUT = TokenRows.from_rows([], [])


def write_tokens(path: Path, data: Path, rows: int) -> None:
    """Tokenize rows of mathmix and store them in few bytes."""
    from bench.tokenizing import real_rows

    tokens = real_rows(data, rows)
    np.savez_compressed(path, **{name: getattr(tokens, name) for name in COLUMNS})


def read_tokens(path: Path, rows: int) -> TokenRows:
    """The first `rows` of the stored rows."""
    stored = np.load(path)
    tokens = TokenRows(*(stored[name] for name in COLUMNS))
    return tokens.take(np.arange(min(rows, len(tokens))))


def train(model: PreTrainedModel, rows: TokenRows, given: argparse.Namespace) -> list[Weights]:
    """Train the proxy; its weights at every checkpoint, step 0 first, on the CPU."""
    weights: list[Weights] = []

    def keep(record: CheckpointRecord, copied: Weights) -> None:
        loss = "" if record.training_loss is None else f", training loss {record.training_loss:.3f}"
        print(f"checkpoint at step {record.step}{loss}", flush=True)
        weights.append(copied)

    settings = FinetuneSettings(
        epochs=given.epochs,
        batch_size=given.batch_size,
        learning_rate=5e-4,
        warmup_ratio=0.03,
        weight_decay=0.0,
        max_grad_norm=1.0,
        precision="bfloat16",
        grid=CheckpointGrid(fraction=1 / given.checkpoints),
        seed=0,
        micro_batch=given.micro_batch,
    )
    finetune(model, rows, NOTHING_HELD_OUT, settings, Hooks(on_checkpoint=keep))
    return weights


def score(
    model: PreTrainedModel, rows: TokenRows, weights: list[Weights], tokens_per_batch: int, dtype: str
) -> Float32:
    """Mean loss of every row at every checkpoint, [N, T], with the attention that the last one allows."""
    model.load_state_dict(weights[-1], strict=False)
    for parameter in model.parameters():  # and no buffer: rotary frequencies stay float32
        parameter.data = parameter.data.to(getattr(torch, dtype))
    choice = choose_attention(model, rows, ScoreOptions(tokens_per_batch, dtype))
    print(f"scoring: {choice.attention} {choice.reason}", flush=True)
    options = ScoreOptions(tokens_per_batch, dtype, attention=choice.attention)
    loss_NT = np.empty((len(rows), len(weights)), np.float32)
    for column, one in enumerate(weights):
        model.load_state_dict(one, strict=False)
        scored = score_rows(model, rows, options=options)
        loss_NT[:, column] = scored["nll_sum"] / scored["target_tokens"]
    return loss_NT


def main(arguments: list[str]) -> int:
    """Run the method once, print seconds by stage, write bench/results/whole-method-SIZE.json."""
    given = parse(arguments)
    if given.write_tokens:
        write_tokens(given.write_tokens, given.data, given.rows)
        return 0
    rows = read_tokens(given.tokens, given.rows) if given.tokens else pool.synthetic_rows(given.rows)
    device = torch.device(given.device)
    settings = {name: str(value) for name, value in vars(given).items()} | {"rows": len(rows)}
    report = Report("whole method", settings, ["torch", "transformers", "triton", "numpy"])
    model = random_model(given.size).to(device)

    weights = timed(report, "train", given.epochs * len(rows), partial(train, model, rows, given))
    scoring = partial(score, model, rows, weights, given.tokens_per_batch, given.score_dtype)
    loss_NT = timed(report, "score", len(rows) * len(weights), scoring)
    cluster_N = timed(report, "cluster", len(rows), partial(cluster, loss_NT[:, 1:], given.k))
    drawing = partial(balanced_sample, cluster_N, len(rows) // 10, np.random.default_rng(0))
    subset_M = timed(report, "select", len(rows), drawing)
    report.add(Row("mean loss before training", [float(loss_NT[:, 0].mean())]))
    report.add(Row("mean loss at the end", [float(loss_NT[:, -1].mean())]))
    report.add(Row("rows selected", [len(subset_M)]))
    if not np.isfinite(loss_NT).all():
        sys.exit("some losses are not finite")
    return report.finish(given.results / f"whole-method-{given.size}.json")


def timed(report: Report, name: str, done: int, run: Callable[[], T]) -> T:
    """The result; seconds and rows a second are reported."""
    began = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - began
    report.add(Row(f"{name}: seconds", [seconds]))
    report.add(Row(f"{name}: rows a second", [done / seconds]))
    return result


def cluster(loss_NT: Float32, k: int) -> Int32:
    """The cluster of every row, with the torch backend on the device that torch finds."""
    return assign_clusters(loss_NT, fit_kmeans(loss_NT, k, seed=0).centroids_KT)[0]


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.whole_method", description=__doc__)
    parser.add_argument("--write-tokens", type=Path, help="write the tokens of real rows here, and end")
    parser.add_argument("--data", type=Path, help="folder with train/ and tokenizers/, for --write-tokens")
    parser.add_argument("--tokens", type=Path, help="a file of --write-tokens; generated rows without it")
    parser.add_argument("--rows", type=int, default=42_599)
    parser.add_argument("--size", choices=SIZES, default="70M")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--checkpoints", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--micro-batch", type=int, default=128)
    parser.add_argument("--tokens-per-batch", type=int, default=65536)
    parser.add_argument("--score-dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
