"""Seconds and peak memory of every stage for any number of rows: generated losses, files of units, clusters, a subset.

    python -m bench.scale [--rows 10000 1000000] [--checkpoints 12] [--s3] [--name scale]

For each number of rows a child process generates a dataset of short rows, writes one unit of losses for every
checkpoint and shard over the actor pool, and then runs the real code: units found complete and joined, cluster, select.
Measured are the proportional set size of the child, which is the driver, and the largest memory of its own of any
worker. Exits with 1 if the driver's peak at the largest size exceeds that at the smallest by 100 MB, or if the driver
has imported transformers. Manifests of 100,000 files are written and opened as well, and timed.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from bench.rounds import RESULTS, Report, Row
from s2l_ray.artifacts.execution import Execution, PrepareExecution, ScoreExecution, Settings, TrainExecution
from s2l_ray.artifacts.facts import CheckpointsFacts, Counts, DatasetFacts, TrajectoriesFacts
from s2l_ray.artifacts.manifest import Artifact, Manifest, open_artifact, write_manifest
from s2l_ray.artifacts.schemas import KINDS, TOKENS, losses_path, losses_schema, tokens_path
from s2l_ray.artifacts.tables import FileRecord, find_complete_unit, write_table
from s2l_ray.config.load import make_config
from s2l_ray.config.sections import Config
from s2l_ray.core.training.records import CheckpointRecord
from s2l_ray.pipeline.steps import step_of
from s2l_ray.runtime.actor_pool import run_units
from s2l_ray.runtime.contracts import Done, PoolOptions, ignore_progress
from s2l_ray.runtime.session import connect
from s2l_ray.stages.build import Build, Product, find_complete
from s2l_ray.stages.score import join_units, plan_units
from s2l_ray.stages.score_check import ScoringCheck
from s2l_ray.stages.score_workers import ScoreUnit
from tests.support.s3 import BUCKET, s3_server

CHECKOUT = Path(__file__).parents[1]
CHECK = ScoringCheck("packed", {"attention": "packed"})
POOL = PoolOptions("generating rows", "use fewer rows", max_actors=2, cpus=0.5)
SHARD = 8192
SOURCES = 20
MUST_MB = 100.0
FILES = 100_000


@dataclass(frozen=True)
class ShardUnit:
    """A shard of generated rows."""

    shard: int
    rows: int

    @property
    def name(self) -> str:
        """Path of the shard."""
        return tokens_path(self.shard)


class MakeShard:
    """Write a dataset shard of short rows in sources of unequal sizes."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __call__(self, unit: ShardUnit) -> FileRecord:
        rng = np.random.default_rng(unit.shard)
        columns: dict[str, Any] = {field.name: pa.nulls(unit.rows, field.type) for field in TOKENS}
        columns |= {
            "example_id": pa.array(example_ids(unit.shard, unit.rows)),
            "source": pa.array([f"source {number}" for number in np.minimum(rng.geometric(0.3, unit.rows), SOURCES)]),
            "status": pa.array(["ok"] * unit.rows),
        }
        return write_table(self._folder, unit.name, pa.Table.from_pydict(columns, schema=TOKENS))


class MakeLosses:
    """Write a unit of scoring with generated losses."""

    def __init__(self, folder: str, rows: list[int]) -> None:
        self._folder, self._rows = folder, rows

    def __call__(self, unit: ScoreUnit) -> FileRecord:
        rows = self._rows[unit.shard]
        rng = np.random.default_rng(unit.shard)
        level_N, rate_N = rng.gamma(2.0, 1.0, rows), rng.gamma(2.0, 0.05, rows)
        columns = [example_ids(unit.shard, rows), 10 * level_N * np.exp(-unit.step * rate_N), [10] * rows]
        table = pa.Table.from_arrays(
            [pa.array(column, field.type) for column, field in zip(columns, losses_schema(()), strict=True)],
            schema=losses_schema(()),
        )
        return write_table(self._folder, unit.name, table, unit.key, {"attention": CHECK.attention})


def example_ids(shard: int, rows: int) -> list[str]:
    """Unique ids of the rows of a shard."""
    return [f"{shard * SHARD + row:032x}" for row in range(rows)]


@dataclass
class Stage:
    """Seconds of a stage, and the largest memory during it, in MB: of the driver, and of one of its workers."""

    seconds: float = 0.0
    driver: float = 0.0
    worker: float = 0.0


class Stages:
    """The stages of a run, measured one after the other. Memory is sampled in a thread."""

    def __init__(self) -> None:
        self.by_name: dict[str, Stage] = {}
        threading.Thread(target=self._sample, daemon=True).start()

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Measure the block."""
        begun, self.by_name[name] = time.monotonic(), Stage()
        yield
        self.by_name[name].seconds = time.monotonic() - begun
        print(f"{name}: {self.by_name[name]}", file=sys.stderr, flush=True)

    def _sample(self) -> None:
        process = psutil.Process()
        while True:
            time.sleep(0.5)
            if self.by_name:
                stage = list(self.by_name.values())[-1]
                stage.driver = max(stage.driver, process.memory_full_info().pss / 2**20)
                stage.worker = max(stage.worker, largest_worker(process))


def largest_worker(driver: psutil.Process) -> float:
    """The most memory that one process of Ray's workers shares with no other, in MB."""
    most = 0.0
    for process in driver.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.name().startswith("ray::"):
                memory = process.memory_info()
                most = max(most, (memory.rss - memory.shared) / 2**20)
    return most


def job(root: str) -> Config:
    """The job whose stages are run."""
    values: dict[str, Any] = {
        "root": root,
        "run": "scale",
        "data": {"sources": [{"path": "."}], "tokenizer": "made/up", "shard_size": SHARD},
        "proxy": {"model": "made/up"},
        "select": {"budget": "10%"},
        "resources": {"retries": 0},
    }
    return make_config(values, "bench.scale")


def commit(kind: str, folder: str, settings: Settings, product: Product) -> Artifact:
    """Write the manifest of a product."""
    name = folder.rsplit("/", 1)[-1]
    execution = Execution(settings, {})
    return write_manifest(
        folder, Manifest(kind, 1, name, {}, {}, {}, execution, product.files, product.counts, product.facts)
    )


def made_dataset(folder: str, sizes: list[int]) -> Artifact:
    """A dataset with shards of these sizes."""
    units = [ShardUnit(shard, rows) for shard, rows in enumerate(sizes)]
    outcomes = run_units(units, MakeShard, POOL, {"folder": folder})
    files = [outcome.value for outcome in outcomes if isinstance(outcome, Done)]
    rows = sum(sizes)
    facts = DatasetFacts({"ok": rows}, {}, 0, 0, 0, 0, len(sizes), 1)
    return commit("dataset", folder, PrepareExecution(1), Product(files, Counts(rows, rows), facts))


def made_checkpoints(folder: str, number: int) -> Artifact:
    """Checkpoints without weights."""
    records = tuple(CheckpointRecord(step, 0.0, 0, 0.0, None, None) for step in range(number))
    settings = TrainExecution(1, 0, 1, 1, "ddp", "auto", False)
    return commit("checkpoints", folder, settings, Product([], Counts(), CheckpointsFacts(records, 2.0, 1.0)))


def run_stages(root: str, rows: int, checkpoints: int, stages: Stages) -> None:
    """From generated losses to a subset, with this process as the driver."""
    folders = {kind: f"{root}/{kind}/{'0' * 12}" for kind in KINDS}
    config, sizes = job(root), [min(SHARD, rows - start) for start in range(0, rows, SHARD)]
    with connect() as cluster_here:
        with stages.measure("generate"):
            built = {
                "dataset": made_dataset(folders["dataset"], sizes),
                "checkpoints": made_checkpoints(folders["checkpoints"], checkpoints),
            }
        for kind in ("trajectories", "clusters", "subset"):
            step, folder = step_of(kind, config), folders[kind]
            settings = step.execution(config, cluster_here)
            build: Build[Any] = Build(kind, folder, config, built, settings, cluster_here, ignore_progress)
            stage = step.stage
            if kind == "trajectories":
                with stages.measure("write units"):
                    write_units(build, sizes)
                stage = find_and_join
            with stages.measure(kind):
                built = {**built, kind: commit(kind, folder, settings, stage(build))}
    assert open_artifact(folders["subset"]).manifest.counts.kept == rows // 10


def write_units(build: Build[Any], sizes: list[int]) -> None:
    """Every unit of scoring, over the actor pool."""
    units = plan_units(build, CHECK.attention)
    losses = run_units(units, MakeLosses, POOL, {"folder": build.folder, "rows": sizes})
    assert all(isinstance(outcome, Done) for outcome in losses)


def find_and_join(build: Build[Any]) -> Product:
    """What `score` does once every unit is complete."""
    units = plan_units(build, CHECK.attention)
    found = find_complete(units, lambda unit: find_complete_unit(build.folder, unit.name, unit.key))
    return join_units(build, [record for record in found if record is not None], CHECK)


def child(rows: int, checkpoints: int, root: str) -> None:
    """One number of rows; prints its figures as JSON."""
    stages = Stages()
    run_stages(root, rows, checkpoints, stages)
    heavy = [name for name in ("transformers", "torch") if name in sys.modules]
    by_name = {name: asdict(stage) for name, stage in stages.by_name.items()}
    print(json.dumps({"stages": by_name, "imported": heavy}))


@contextlib.contextmanager
def store(in_bucket: bool) -> Iterator[tuple[str, dict[str, str]]]:
    """A root on the disk or in the bucket of an S3 server on this machine, and the variables to use it with."""
    with tempfile.TemporaryDirectory() as folder:
        if not in_bucket:
            yield folder, {}
            return
        with s3_server(Path(folder)) as server:
            yield f"s3://{BUCKET}/scale", server.environment


def measure(rows: int, checkpoints: int, in_bucket: bool) -> dict[str, Any]:
    """The figures of a child process."""
    with store(in_bucket) as (root, variables):
        command = [sys.executable, "-m", "bench.scale", "--child", root, "--rows", str(rows)]
        command += ["--checkpoints", str(checkpoints)]
        environment = os.environ | variables
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=CHECKOUT, env=environment)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def manifest_seconds() -> tuple[float, float]:
    """Seconds to write and to open a manifest of FILES files."""
    with tempfile.TemporaryDirectory() as folder:
        files = [FileRecord(losses_path(at // 100, at % 100), 8192, at, f"{at:064x}") for at in range(FILES)]
        begun = time.perf_counter()
        product = Product(files, Counts(), TrajectoriesFacts([], [], {}))
        commit("trajectories", folder, ScoreExecution(1, "auto", 1, 0), product)
        written = time.perf_counter()
        assert len(open_artifact(folder).files()) == FILES
        return written - begun, time.perf_counter() - written


def main() -> int:
    """Run a child for each number of rows, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--checkpoints", type=int, default=12)
    parser.add_argument("--s3", action="store_true", help="a real S3 server on this machine instead of its disk")
    parser.add_argument("--name", default="scale", help="of the file of results")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options.rows[0], options.checkpoints, options.child)
        return 0
    report = Report("scale", vars(options), ("ray", "pyarrow", "numpy"))
    drivers, imported = [], 0
    for rows in options.rows:
        figures = measure(rows, options.checkpoints, options.s3)
        for name, stage in figures["stages"].items():
            report.add(Row(f"{rows:,} rows, {name}: seconds", [stage["seconds"]]))
            report.add(Row(f"{rows:,} rows, {name}: driver's peak, MB", [stage["driver"]]))
            report.add(Row(f"{rows:,} rows, {name}: largest worker's peak, MB", [stage["worker"]]))
        drivers.append(max(stage["driver"] for stage in figures["stages"].values()))
        imported += len(figures["imported"])
    report.add(Row("growth of the driver, MB", [drivers[-1] - drivers[0]], MUST_MB, MUST_MB / 2, True))
    report.add(Row("heavy libraries the driver imported", [imported], 0, 0, True))
    written, opened = manifest_seconds()
    report.add(Row(f"seconds to write a manifest of {FILES:,} files", [written]))
    report.add(Row("seconds to open it", [opened]))
    return report.finish(RESULTS / f"{options.name}.json")


if __name__ == "__main__":
    raise SystemExit(main())
