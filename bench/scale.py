"""Peak memory of the driver for any number of rows: generated losses, through the files of scoring, to a subset.

    python -m bench.scale [--rows 10000 1000000] [--checkpoints 12]

For each number of rows a child process generates a dataset of short rows, writes one unit of losses for every
checkpoint and shard over the actor pool, and then runs the real stages: score, which finds its units complete and joins
them, cluster, select. The child's proportional set size is sampled meanwhile. Exits with 1 if the peak of the largest
size exceeds that of the smallest by 100 MB, or if the driver has imported transformers. Manifests of 100,000 files are
written and opened as well, and timed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
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
from s2l_ray.artifacts.tables import FileRecord, write_table
from s2l_ray.config.load import make_config
from s2l_ray.config.sections import Config
from s2l_ray.core.training.records import CheckpointRecord
from s2l_ray.pipeline.steps import STEPS
from s2l_ray.runtime.actor_pool import run_units
from s2l_ray.runtime.contracts import Done, PoolOptions, ignore_progress
from s2l_ray.runtime.session import connect
from s2l_ray.stages.build import Build, Product
from s2l_ray.stages.score import plan_units
from s2l_ray.stages.score_workers import ScoreUnit

POOL = PoolOptions("generating rows", "use fewer rows", cpus=0.5)
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
        return write_table(self._folder, unit.name, table, unit.key)


def example_ids(shard: int, rows: int) -> list[str]:
    """Unique ids of the rows of a shard."""
    return [f"{shard * SHARD + row:032x}" for row in range(rows)]


class Peak:
    """The largest proportional set size of this process, in MB, sampled in a thread."""

    def __init__(self) -> None:
        self.megabytes = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(0.2):
            self.megabytes = max(self.megabytes, process.memory_full_info().pss / 2**20)

    def stop(self) -> float:
        """End the sampling and return the peak."""
        self._stop.set()
        self._thread.join()
        return self.megabytes


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


def run_stages(root: str, rows: int, checkpoints: int) -> None:
    """From generated losses to a subset, with this process as the driver."""
    folders = {kind: f"{root}/{kind}/{'0' * 12}" for kind in KINDS}
    config, sizes = job(root), [min(SHARD, rows - start) for start in range(0, rows, SHARD)]
    with connect() as cluster_here:
        built = {
            "dataset": made_dataset(folders["dataset"], sizes),
            "checkpoints": made_checkpoints(folders["checkpoints"], checkpoints),
        }
        for step in STEPS[2:]:
            settings = step.execution(config, cluster_here)
            build: Build[Any] = Build(
                step.kind, folders[step.kind], config, built, settings, cluster_here, ignore_progress
            )
            if step.kind == "trajectories":
                losses = run_units(plan_units(build), MakeLosses, POOL, {"folder": build.folder, "rows": sizes})
                assert all(isinstance(outcome, Done) for outcome in losses)
            built = {**built, step.kind: commit(step.kind, build.folder, settings, step.stage(build))}
    assert open_artifact(folders["subset"]).manifest.counts.kept == rows // 10


def child(rows: int, checkpoints: int) -> None:
    """One number of rows; prints its figures as JSON."""
    peak, begun = Peak(), time.monotonic()
    with tempfile.TemporaryDirectory() as root:
        run_stages(root, rows, checkpoints)
    heavy = [name for name in ("transformers", "torch") if name in sys.modules]
    print(json.dumps({"megabytes": peak.stop(), "seconds": time.monotonic() - begun, "imported": heavy}))


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
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options.child, options.checkpoints)
        return 0
    report = Report("scale", vars(options), ("ray", "pyarrow", "numpy"))
    figures = []
    for rows in options.rows:
        command = [sys.executable, "-m", "bench.scale", "--child", str(rows), "--checkpoints", str(options.checkpoints)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
        figures.append(json.loads(answer.stdout.splitlines()[-1]))
        report.add(Row(f"driver's peak at {rows:,} rows, MB", [figures[-1]["megabytes"]]))
        report.add(Row(f"seconds for {rows:,} rows", [figures[-1]["seconds"]]))
    growth = figures[-1]["megabytes"] - figures[0]["megabytes"]
    report.add(Row("growth of the driver, MB", [growth], MUST_MB, MUST_MB / 2, True))
    report.add(Row("heavy libraries the driver imported", [len(figures[-1]["imported"])], 0, 0, True))
    written, opened = manifest_seconds()
    report.add(Row(f"seconds to write a manifest of {FILES:,} files", [written]))
    report.add(Row("seconds to open it", [opened]))
    return report.finish(RESULTS / "scale.json")


if __name__ == "__main__":
    raise SystemExit(main())
