"""K-means of s2l_ray against scikit-learn and faiss: `python -m bench.clustering [--quick]`.

1. Lloyd iterations from the same initial centroids with the same threads: whole public calls, set-up and the last
   assignment included on all sides. One thread is judged by processor time, all threads by wall time.
2. Inertia of the recipe after at most five full passes, over the best of five long runs of scikit-learn.
3. Workers: 1, 2 and 4 give the same bits; two of one thread each against one, by wall time.
Exits with 1 if a goal in the column "must" is missed. faiss is optional (`pip install faiss-cpu`) and only reported.
"""

import argparse
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans as SklearnKMeans
from threadpoolctl import threadpool_limits

from bench.rounds import RESULTS, Report, Row, ratios, take_turns
from s2l_ray.core.kmeans.fit import KMeansOptions, fit_kmeans

Float32 = NDArray[np.float32]
COLUMNS = 60
TORCH = KMeansOptions(backend="torch")
FIVE_RESTARTS = KMeansOptions(backend="torch", restarts=5)
GOALS = {100: (0.9, 1.3), 1000: (1.2, 1.5)}  # clusters -> speed against scikit-learn: must, after


def loss_curves(rows: int, seed: int = 0, shapes: int = 500) -> Float32:
    """Falling curves of very unequally frequent shapes, level and noise differing by row: like trajectories."""
    rng = np.random.default_rng(seed)
    time_T = np.linspace(0, 1, COLUMNS, dtype=np.float32)
    start_G, rate_G, floor_G = rng.gamma(6, 0.4, shapes), rng.gamma(2, 1.5, shapes), rng.gamma(2, 0.3, shapes)
    curve_GT = (floor_G[:, None] + start_G[:, None] * np.exp(-rate_G[:, None] * time_T)).astype(np.float32)
    x_NT = curve_GT[rng.choice(shapes, rows, p=rng.dirichlet(np.full(shapes, 0.5)))]
    x_NT *= rng.lognormal(0, 0.15, (rows, 1)).astype(np.float32)
    x_NT += 0.1 * rng.standard_normal(x_NT.shape, dtype=np.float32)
    return x_NT


def run_ours(x_NT: Float32, start_KT: Float32, passes: int, threads: int) -> None:
    """The torch backend on the CPU."""
    fit_kmeans(
        x_NT,
        len(start_KT),
        seed=0,
        options=KMeansOptions(iterations=passes, backend="torch"),
        initial_centroids_KT=start_KT,
        workers=threads,
    )


def run_sklearn(x_NT: Float32, start_KT: Float32, passes: int, threads: int) -> None:
    """scikit-learn's Lloyd, told not to stop early."""
    with threadpool_limits(threads):
        SklearnKMeans(len(start_KT), init=start_KT, n_init=1, max_iter=passes, tol=0, algorithm="lloyd").fit(x_NT)


def run_faiss(x_NT: Float32, start_KT: Float32, passes: int, threads: int) -> None:
    """faiss on all rows: its default takes a sample of 256 a cluster."""
    import faiss

    faiss.omp_set_num_threads(threads)
    with threadpool_limits(threads):
        model = faiss.Kmeans(COLUMNS, len(start_KT), niter=passes, max_points_per_centroid=len(x_NT))
        model.train(x_NT, init_centroids=start_KT)
        model.index.search(x_NT, 1)  # the last assignment, which the others make too


def compare_speed(report: Report, rows: int, clusters: int, passes: int, rounds: int) -> None:
    """Whole fits against the peers, on one thread and on all."""
    x_NT = loss_curves(rows)
    start_KT = x_NT[np.random.default_rng(1).choice(rows, clusters, replace=False)]
    contestants: dict[str, Callable[[Float32, Float32, int, int], None]] = {"ours": run_ours, "sklearn": run_sklearn}
    if importlib.util.find_spec("faiss"):
        contestants["faiss"] = run_faiss
    for threads in sorted({1, os.cpu_count() or 1}):
        case = f"{rows:,} x {COLUMNS}, K={clusters}, {threads} thread{'s' * (threads > 1)}"
        turns = {name: partial(run, x_NT, start_KT, passes, threads) for name, run in contestants.items()}
        timings = take_turns(turns, rounds)
        seconds = {name: [run.cpu if threads == 1 else run.wall for run in runs] for name, runs in timings.items()}
        report.seconds |= {f"{case}: {name}": values for name, values in seconds.items()}
        must, after = GOALS[clusters]
        report.add(Row(f"speed vs sklearn, {case}", ratios(seconds["sklearn"], seconds["ours"]), must, after))
        if "faiss" in seconds:
            report.add(Row(f"speed vs faiss, {case}", ratios(seconds["faiss"], seconds["ours"])))


def compare_inertia(report: Report, rows: int, clusters: int) -> None:
    """The recipe over the best of five long runs; beside it sklearn with as few passes, and the official recipe."""
    x_NT = loss_curves(rows)
    runs = [
        SklearnKMeans(clusters, n_init=1, max_iter=100, tol=0, random_state=seed).fit(x_NT).inertia_
        for seed in range(5)
    ]
    best = min(runs)
    case = f"{rows:,} x {COLUMNS}, K={clusters}"
    ours = [fit_kmeans(x_NT, clusters, seed=seed, options=TORCH).inertia / best for seed in range(5)]
    report.add(Row(f"inertia over best of five long runs, {case}", ours, 1.015, 1.005, lower_is_better=True))
    restarted = [fit_kmeans(x_NT, clusters, seed=seed, options=FIVE_RESTARTS).inertia / best for seed in range(5)]
    report.add(Row(f"  the same with five restarts on the sample, {case}", restarted))
    report.add(Row(f"  the five long runs of sklearn (100 passes), {case}", [run / best for run in runs]))
    short = [
        SklearnKMeans(clusters, n_init=1, max_iter=5, tol=0, random_state=seed).fit(x_NT).inertia_ / best
        for seed in range(5)
    ]
    report.add(Row(f"  sklearn, five passes, {case}", short))
    if importlib.util.find_spec("faiss"):
        official = [official_inertia(x_NT, clusters, seed) / best for seed in range(5)]
        report.add(Row(f"  official recipe (faiss, 20 passes on a sample), {case}", official))


def official_inertia(x_NT: Float32, clusters: int, seed: int) -> float:
    """faiss as S2L's code calls it: 20 iterations from random points on at most 256 points a cluster."""
    import faiss

    model = faiss.Kmeans(COLUMNS, clusters, niter=20, seed=seed)
    model.train(x_NT)
    return float(model.index.search(x_NT, 1)[0].astype(np.float64).sum())


def compare_workers(report: Report, rows: int, clusters: int, passes: int, rounds: int) -> None:
    """Workers of one thread each: the same bits, and how much two save."""
    x_NT = loss_curves(rows)
    start_KT = x_NT[np.random.default_rng(1).choice(rows, clusters, replace=False)]
    options = KMeansOptions(iterations=passes, backend="torch")
    fit = partial(fit_kmeans, x_NT, clusters, seed=0, options=options, initial_centroids_KT=start_KT)
    case = f"{rows:,} x {COLUMNS}, K={clusters}"
    bits = {fit(workers=workers).centroids_KT.tobytes() for workers in (1, 2, 4)}
    report.add(Row(f"different centroids from 1, 2, 4 workers, {case}", [len(bits)], 1, 1, lower_is_better=True))
    if (os.cpu_count() or 1) < 2:
        return report.skip(f"time of two workers over one, {case}", "this machine has one core")
    timings = take_turns({"1": partial(fit, workers=1), "2": partial(fit, workers=2)}, rounds)
    report.seconds |= {f"{case}: {name} workers": [run.wall for run in runs] for name, runs in timings.items()}
    share = median(run.cpu / run.wall for run in timings["1"])
    if share < 0.9:
        why = f"other work held the cores: one worker got {share:.0%} of one; run it again on a quiet machine"
        return report.skip(f"time of two workers over one, {case}", why)
    saved = ratios([run.wall for run in timings["2"]], [run.wall for run in timings["1"]])
    report.add(Row(f"time of two workers over one, {case}", saved, 0.65, 0.55, lower_is_better=True))


def main(arguments: list[str]) -> int:
    """Run all, print the table, write bench/results/clustering.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.clustering")
    parser.add_argument(
        "--quick", action="store_true", help="smaller sizes, under a minute; writes clustering-quick.json"
    )
    quick = parser.parse_args(arguments).quick
    warnings.filterwarnings("ignore", category=Warning, module="sklearn")
    if torch.cuda.is_available():
        sys.exit("bench.clustering compares CPUs; hide the GPU with CUDA_VISIBLE_DEVICES= (bench.gpu measures it)")
    settings = {"columns": COLUMNS, "quick": quick}
    report = Report("clustering", settings, ["numpy", "torch", "scikit-learn", "faiss-cpu"])
    if not importlib.util.find_spec("faiss"):
        report.skip("faiss", "not installed; pip install faiss-cpu")
    small, large = (65_000, 130_000) if quick else (260_000, 1_000_000)
    compare_inertia(report, small, 100)
    compare_workers(report, small, 100, passes=10, rounds=5)
    compare_speed(report, small, 100, passes=5, rounds=7)
    compare_speed(report, small, 1000, passes=3, rounds=3)
    compare_speed(report, large, 100, passes=5, rounds=3)
    if not quick:
        compare_speed(report, large, 1000, passes=2, rounds=3)
    return report.finish(RESULTS / ("clustering-quick.json" if quick else "clustering.json"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
