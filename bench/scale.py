"""How much memory the driver takes, whatever the number of rows: made-up losses through scoring's files to a subset.

    python -m bench.scale [--rows 10000 1000000] [--checkpoints 12]

For each number of rows a child process makes a dataset of short rows, writes one unit of made-up losses for every
checkpoint and shard over the actor pool, and then runs the real stages: join, cluster, select. The child's proportional
set size is sampled all the while. Exits 1 where the largest size of the last exceeds that of the first by 100 MB, or
where the driver has imported transformers. Manifests of 100,000 files are written and opened as well, and timed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from bench.rounds import RESULTS, Report, Row
from s2l_ray.artifacts.manifest import Artifact, Manifest, open_artifact, write_manifest
from s2l_ray.artifacts.schemas import DATASET, losses_path, losses_schema, shard_path
from s2l_ray.artifacts.tables import FileRecord, write_table
from s2l_ray.config.load import make_config
from s2l_ray.config.sections import Config
from s2l_ray.runtime.actor_pool import run_units
from s2l_ray.runtime.contracts import Done, PoolOptions
from s2l_ray.runtime.session import connect
from s2l_ray.stages import cluster, score, select
from s2l_ray.stages.build import Build, NamedUnit, Product, Stage

SHARD = 8192
SOURCES = 20
MUST_MB = 100.0
FILES = 100_000


class MakeShard:
    """A dataset shard of short rows in unequal sources, and its made-up losses at every checkpoint."""

    def __init__(self, dataset: str, losses: str, checkpoints: int) -> None:
        self._dataset, self._losses, self._checkpoints = dataset, losses, checkpoints

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        rng = np.random.default_rng(unit["shard"])
        rows, first = unit["rows"], unit["shard"] * SHARD
        ids = pa.array([f"{first + row:032x}" for row in range(rows)])
        source_N = np.minimum(rng.geometric(0.3, rows), SOURCES)
        columns: dict[str, Any] = {field.name: pa.nulls(rows, field.type) for field in DATASET}
        columns |= {
            "example_id": ids,
            "source": pa.array([f"source {number}" for number in source_N]),
            "status": pa.array(["ok"] * rows),
        }
        shard = pa.Table.from_pydict(columns, schema=DATASET)
        record = write_table(self._dataset, shard_path(unit["shard"]), shard)
        level_N = rng.gamma(2.0, 1.0, rows)
        units = []
        for step in range(self._checkpoints):
            nll_N = 10 * level_N * np.exp(-step * rng.gamma(2.0, 0.05, rows))
            table = pa.Table.from_arrays([ids, nll_N, pa.array([10] * rows, pa.int32())], schema=losses_schema(()))
            units.append(vars(write_table(self._losses, losses_path(step, unit["shard"]), table)))
        return {"file": vars(record), "units": units}


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
        """End the sampling and give the peak."""
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
    }
    return make_config(values, "bench.scale")


def finish(kind: str, folder: str, inputs: dict[str, str], product: Product) -> Artifact:
    """The manifest of a made artefact."""
    name = folder.rsplit("/", 1)[-1]
    manifest = Manifest(kind, 1, name, inputs, {}, {}, {}, product.files, product.counts, product.facts)
    return write_manifest(folder, manifest)


def drain(stage: Stage) -> Product:
    """Run a stage to its end."""
    try:
        while True:
            next(stage)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def way(root: str, rows: int, checkpoints: int) -> None:
    """From made-up losses to a subset, in this process as the driver."""
    folders = {kind: f"{root}/{kind}/{'0' * 12}" for kind in ("dataset", "checkpoints", *STAGES)}
    with connect() as here:
        arguments = {"dataset": folders["dataset"], "losses": folders["trajectories"], "checkpoints": checkpoints}
        options = PoolOptions("making rows", "lower --rows", cpus=0.5)
        sizes = [min(SHARD, rows - start) for start in range(0, rows, SHARD)]
        units = [NamedUnit({"name": f"shard {at}", "shard": at, "rows": size}) for at, size in enumerate(sizes)]
        made = [one.value for one in run_units(units, MakeShard, options, arguments) if isinstance(one, Done)]
        facts = {"ok": rows, "statuses": {"ok": rows}, "shards": len(sizes)}
        dataset = Product([FileRecord(**one["file"]) for one in made], {"read": rows, "kept": rows}, facts)
        built = {"dataset": finish("dataset", folders["dataset"], {}, dataset)}
        steps = Product([], facts={"steps": list(range(checkpoints))})
        built["checkpoints"] = finish("checkpoints", folders["checkpoints"], {}, steps)
        losses = [FileRecord(**record) for one in made for record in one["units"]]
        config = job(root)
        for kind, (stage, execution) in STAGES.items():
            build = Build(kind, folders[kind], config, built, execution(config, here), here)
            product = drain(score.join(build, losses) if kind == "trajectories" else stage(build))
            built[kind] = finish(kind, folders[kind], {}, product)
    assert open_artifact(folders["subset"]).manifest.counts["kept"] == rows // 10


STAGES: dict[str, Any] = {
    "trajectories": (score.score, score.execution),
    "clusters": (cluster.cluster, cluster.execution),
    "subset": (select.select, select.execution),
}


def child(rows: int, checkpoints: int) -> None:
    """One number of rows; prints its figures as JSON."""
    peak, begun = Peak(), time.monotonic()
    with tempfile.TemporaryDirectory() as root:
        way(root, rows, checkpoints)
    heavy = [name for name in ("transformers", "torch") if name in sys.modules]
    print(json.dumps({"megabytes": peak.stop(), "seconds": time.monotonic() - begun, "imported": heavy}))


def manifest_seconds() -> tuple[float, float]:
    """Seconds to write and to open a manifest of FILES files."""
    with tempfile.TemporaryDirectory() as folder:
        files = [FileRecord(losses_path(at // 100, at % 100), 8192, at, f"{at:064x}") for at in range(FILES)]
        begun = time.perf_counter()
        finish("trajectories", folder, {}, Product(files))
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
