"""Time and memory of every selection method on generated trajectories.

    python -m bench.selection [--rows 1000000] [--methods s2l random ...] [--folder FOLDER]

Writes a dataset, trajectories of 12 checkpoints with every statistic, and clusters, as their stages do. Then each
method selects a tenth of the rows in a process of its own, from the finished tables and without Ray: seconds, and the
growth of its resident memory in bytes a row, beyond that of a selection from one shard. Exits with 1 if a method
exceeds 40 bytes a row, s2l 60 s at 10,000,000 rows, or any method 10 s at 1,000,000. Methods that keep vectors state
their own bound and are left out.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench.rounds import RESULTS, Report, Row
from bench.scale import SHARD
from s2l_ray.artifacts.execution import (
    ClusterExecution,
    Execution,
    PrepareExecution,
    ScoreExecution,
    Settings,
    TrainExecution,
)
from s2l_ray.artifacts.facts import CheckpointsFacts, ClustersFacts, Counts, DatasetFacts, Facts, TrajectoriesFacts
from s2l_ray.artifacts.manifest import Manifest, open_artifact, write_manifest
from s2l_ray.artifacts.schemas import CLUSTERS, OK, TOKENS, shard_path, tokens_path, trajectories_schema
from s2l_ray.artifacts.tables import FileRecord, write_table
from s2l_ray.config.select import Select
from s2l_ray.core.selection.registry import SELECTORS
from s2l_ray.core.training.records import CheckpointRecord
from s2l_ray.stages.select import select_rows

CHECKPOINTS, SOURCES, K = 12, 20, 100
STATISTICS = ("el2n", "grand", "mean_probability", "token_accuracy", "top_entropy")
NAME, ONE_SHARD = "0" * 12, "one-shard"
LEFT_OUT = {"facility_location", "k_center", "column"}
MUST_BYTES, MUST_SECONDS = 40.0, {1_000_000: 10.0, 10_000_000: 60.0}


def write_tables(root: str, rows: int) -> None:
    """Artifacts of `rows` rows with a gradual loss, in SOURCES sources of unequal sizes, each in K clusters."""
    files: dict[str, list[FileRecord]] = {"dataset": [], "trajectories": [], "clusters": []}
    for start in range(0, rows, SHARD):
        for kind, (path, table) in _tables(start // SHARD, min(SHARD, rows - start)).items():
            files[kind].append(write_table(f"{root}/{kind}/{NAME}", path, table))
    records = tuple(CheckpointRecord(step, step / 4, 8 * step, 0.0, None, None) for step in range(CHECKPOINTS))
    facts: dict[str, tuple[Facts, Settings]] = {
        "dataset": (DatasetFacts({OK: rows}, {}, 5 * rows, 4 * rows, 0, 9, len(files), 10), PrepareExecution(SHARD)),
        "checkpoints": (CheckpointsFacts(records, 2.0, 1.0), TrainExecution(1, 0.0, 1, 8, "ddp", "auto", False)),
        "trajectories": (
            TrajectoriesFacts(list(range(CHECKPOINTS)), list(STATISTICS), {"all": rows}),
            ScoreExecution(1, "auto", 1, 0.0),
        ),
        "clusters": (ClustersFacts(K * SOURCES, 0, 0.0, "source", {}, 0.0), ClusterExecution("torch", 1, 0.0)),
    }
    inputs = {"trajectories": {"dataset": NAME, "checkpoints": NAME}}
    for kind, (own, settings) in facts.items():
        execution, counts = Execution(settings, {}), Counts(rows, rows)
        listed = files.get(kind, [])
        manifest = Manifest(kind, 1, NAME, inputs.get(kind, {}), {}, {}, execution, listed, counts, own)
        write_manifest(f"{root}/{kind}/{NAME}", manifest)


def _tables(shard: int, rows: int) -> dict[str, tuple[str, pa.Table]]:
    """The tables of one shard by kind. Statistics have few values, so that the files stay small."""
    rng = np.random.default_rng(shard)
    source_N = np.minimum(rng.geometric(0.3, rows), SOURCES) - 1
    names = pa.array([f"source {number}" for number in range(SOURCES)])
    ids, source, status = pa.array(hashed_ids(shard, rows)), names.take(pa.array(source_N)), pa.array([OK] * rows)
    length_N = rng.integers(2, 9, rows)
    dataset: dict[str, pa.Array] = {field.name: pa.nulls(rows, field.type) for field in TOKENS}
    dataset |= {"example_id": ids, "source": source, "status": status}
    dataset["input_ids"] = _lists(np.zeros(length_N.sum(), np.int32), np.cumsum(length_N))
    dataset["target_spans"] = _lists(
        np.stack([np.ones(rows), length_N], axis=1).astype(np.int32).ravel(), 2 * np.arange(1, rows + 1)
    )
    decay_NT = np.exp(-np.arange(CHECKPOINTS) * rng.gamma(2.0, 0.05, (rows, 1)))
    loss_NT = (rng.gamma(2.0, 1.0, (rows, 1)) * decay_NT).astype(np.float32)
    coarse_NT = (np.round(32 * decay_NT) / 32).astype(np.float32)
    series = [
        pa.FixedSizeListArray.from_arrays(pa.array(value_NT.ravel()), CHECKPOINTS)
        for value_NT in [loss_NT, *[coarse_NT] * len(STATISTICS)]
    ]
    columns = [ids, source, pa.array(length_N - 1, pa.int32()), status, *series]
    cluster_N = pa.array(source_N * K + rng.integers(0, K, rows), pa.int32())
    return {
        "dataset": (tokens_path(shard), pa.Table.from_pydict(dataset, schema=TOKENS)),
        "trajectories": (
            shard_path(shard),
            pa.Table.from_arrays(columns, schema=trajectories_schema(CHECKPOINTS, STATISTICS)),
        ),
        "clusters": (
            shard_path(shard),
            pa.Table.from_arrays([ids, cluster_N, pa.array(np.zeros(rows, np.float32))], schema=CLUSTERS),
        ),
    }


def hashed_ids(shard: int, rows: int) -> list[str]:
    """Unique ids whose order is not that of the rows, as those of real examples."""
    number_N = np.arange(shard * SHARD, shard * SHARD + rows, dtype=np.uint64)
    hashed_N = number_N * np.uint64(0x9E3779B97F4A7C15)
    return [f"{hashed:016x}{number:016x}" for hashed, number in zip(hashed_N.tolist(), number_N.tolist(), strict=True)]


def _lists(values: np.ndarray, ends_N: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], ends_N]), pa.int32()), pa.array(values))


def select_once(root: str, method: str) -> dict[str, float]:
    """Select a tenth of the rows: seconds, and bytes of resident memory a row beyond those of one shard."""
    select = Select(method=method, budget="10%")

    def select_from(folder: str) -> int:
        uris = {kind: f"{folder}/{kind}/{NAME}" for kind in select.needs.inputs()}
        rows = open_artifact(uris["dataset"]).facts(DatasetFacts).ok
        with tempfile.TemporaryDirectory() as output:
            select_rows(output, uris, select, folder, rows // 10)
        return rows

    select_from(f"{root}/{ONE_SHARD}")
    before, started = _peak_bytes(), time.perf_counter()
    rows = select_from(root)
    return {"seconds": time.perf_counter() - started, "bytes_a_row": (_peak_bytes() - before) / rows}


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(root: str, method: str) -> dict[str, float]:
    """`select_once` in a process of its own."""
    command = [sys.executable, "-m", "bench.selection", "--folder", root, "--child", method]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)  # type: ignore[no-any-return]


def main() -> int:
    """Write the tables, unless the folder has them, and measure the methods."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--methods", nargs="+", default=[name for name in SELECTORS if name not in LEFT_OUT])
    parser.add_argument("--folder", help="keep the tables here, and use those of an earlier run")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(select_once(arguments.folder, arguments.child)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.folder or temporary
        if not Path(root, "clusters", NAME, "manifest.json").exists():
            write_tables(f"{root}/{ONE_SHARD}", SHARD)
            write_tables(root, arguments.rows)
        report = Report("selection", {"rows": arguments.rows, "checkpoints": CHECKPOINTS}, ["numpy", "pyarrow"])
        for method in arguments.methods:
            measured = measure(root, method)
            limit = MUST_SECONDS.get(arguments.rows) if arguments.rows < 10_000_000 or method == "s2l" else None
            seconds, used = [measured["seconds"]], [measured["bytes_a_row"]]
            report.add(Row(f"{method}: seconds", seconds, limit, limit and limit / 2, lower_is_better=True))
            report.add(Row(f"{method}: bytes a row", used, MUST_BYTES, 24.0, lower_is_better=True))
        return report.finish(RESULTS / f"selection-{arguments.rows}.json")


if __name__ == "__main__":
    sys.exit(main())
