"""What Ray costs: the scoring stage over its actor pool against the same units in a plain loop.

    python -m bench.overhead [--seconds 300] [--rows 5000]

The same worker class does the same units, in the same order, into files of the same names: once called in a loop of
this process, once by the stage's actor pool on a local Ray with one actor, in turns. Start-up (the actor, its imports,
its first checkpoint) is printed apart: it is paid once a run, whatever the run's length. The joining of trajectories is
part of neither. Exits 1 where the median of the ratios is above what has to hold.
"""

import argparse
import contextlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.rounds import RESULTS, Report, Row
from s2l_ray import storage
from s2l_ray.artifacts.execution import ScoreExecution
from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.config.load import make_config
from s2l_ray.config.sections import Config
from s2l_ray.demo.dataset import make_demo
from s2l_ray.pipeline.plan import plan
from s2l_ray.pipeline.run import run
from s2l_ray.runtime.actor_pool import run_units
from s2l_ray.runtime.contracts import PoolOptions, ignore_progress
from s2l_ray.runtime.session import connect
from s2l_ray.stages.build import Build
from s2l_ray.stages.score import execution, plan_units
from s2l_ray.stages.score_workers import ScoreWorker

MUST, AFTER = 1.10, 1.03


def job(folder: Path, rows: int) -> Config:
    """A proxy large enough that a unit is some seconds of work on one core."""
    make_demo(folder / "demo", rows=rows)
    model = {
        "architecture": "gpt_neox",
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
    }
    values: dict[str, Any] = {
        "root": str(folder / "artifacts"),
        "run": "overhead",
        "data": {
            "root": str(folder / "demo"),
            "sources": [{"path": "rows", "source": {"field": "source"}}],
            "tokenizer": {"train": {"vocab_size": 2048}},
            "shard_size": 512,
        },
        "proxy": {
            "model": model,
            "epochs": 1,
            "batch_size": 64,
            "train_examples": 256,
            "precision": "float32",
            "checkpoints": {"steps": 2},
        },
        "select": {"budget": 10},
    }
    return make_config(values, "bench.overhead")


def arguments_of(build: Build[ScoreExecution]) -> dict[str, Any]:
    """Arguments of the constructor of a scoring worker."""
    return {
        "folder": build.folder,
        "attention": "packed",
        "dataset": build.inputs["dataset"].uri,
        "checkpoints": build.inputs["checkpoints"].uri,
        "score": build.config.score,
        "execution": build.execution,
    }


def plain_loop(build: Build[ScoreExecution]) -> tuple[float, float]:
    """Seconds to make the worker, and to do all units, in this process."""
    begun = time.perf_counter()
    worker = ScoreWorker(**arguments_of(build))
    made = time.perf_counter()
    for unit in plan_units(build, "packed"):
        worker(unit)
    return made - begun, time.perf_counter() - made


def ray_pool(build: Build[ScoreExecution], unit_seconds: float) -> tuple[float, float]:
    """Seconds until the first unit began, and from then to the last one's end, over one actor."""
    begun = time.perf_counter()
    options = PoolOptions("scoring", "lower resources.score.tokens_per_batch", cpus=0.5)
    results = run_units(plan_units(build, "packed"), ScoreWorker, options, arguments_of(build))
    with contextlib.closing(results):  # type: ignore[type-var]
        next(results)
        first = time.perf_counter() - unit_seconds
        for _ in results:
            pass
    return first - begun, time.perf_counter() - first


def measure(config: Config, inputs: dict[str, Artifact], seconds: float) -> list[dict[str, float]]:
    """Rounds of one plain loop and one pass over Ray, until the plain loops have taken that long."""
    rounds: list[dict[str, float]] = []
    with connect() as here, tempfile.TemporaryDirectory() as folder:
        build = Build("trajectories", folder, config, inputs, execution(config, here), here, ignore_progress)
        units = len(plan_units(build, "packed"))
        while sum(one["plain"] for one in rounds) < seconds:
            plain_start, plain = plain_loop(build)
            storage.delete_folder(storage.join(folder, "losses"))
            ray_start, over_ray = ray_pool(build, plain / units)
            storage.delete_folder(storage.join(folder, "losses"))
            rounds.append({"plain": plain, "ray": over_ray, "plain_start": plain_start, "ray_start": ray_start})
            print(json.dumps({name: round(value, 2) for name, value in rounds[-1].items()}), flush=True)
    return rounds


def main() -> int:
    """Prepare, train, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300, help="least seconds of work in the plain loops")
    parser.add_argument("--rows", type=int, default=5000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = job(Path(folder), options.rows)
        run(config, to="checkpoints")
        inputs = {kind: open_artifact(plan(config)[kind].uri) for kind in ("dataset", "checkpoints")}
        rounds = measure(config, inputs, options.seconds)
    report = Report("overhead", vars(options), ("ray", "torch", "transformers", "pyarrow"))
    report.seconds = {name: [one[name] for one in rounds] for name in rounds[0]}
    report.add(
        Row("Ray pool / plain loop, same units", [one["ray"] / one["plain"] for one in rounds], MUST, AFTER, True)
    )
    report.add(Row("seconds until the pool's first unit", [one["ray_start"] for one in rounds]))
    return report.finish(RESULTS / "overhead.json")


if __name__ == "__main__":
    raise SystemExit(main())
