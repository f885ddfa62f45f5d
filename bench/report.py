"""Time, memory and file sizes of the report of a large pool with generated texts and losses.

    python -m bench.report [--rows 1000000] [--checkpoints 12] [--terms 60]

Writes the artifacts of a job below a temporary folder, then measures the report and the explorer table in this process.
Exits with 1 if the page exceeds 8 MB.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench.rounds import RESULTS, Report, Row
from bench.scale import Stages, example_ids
from s2l_ray.artifacts.facts import ClustersFacts, DatasetFacts, Facts, SubsetFacts, TrajectoriesFacts
from s2l_ray.artifacts.manifest import Artifact, write_manifest
from s2l_ray.artifacts.schemas import (
    CLUSTERS,
    SUBSET,
    TEXT,
    TOKENS,
    shard_path,
    text_path,
    tokens_path,
    trajectories_schema,
)
from s2l_ray.artifacts.tables import write_table
from s2l_ray.reporting.report import report
from tests.support.pool_artifacts import write_artifact

SHARD, SOURCES, CLUSTERS_PER_SOURCE = 8192, 10, 100
MUST_MB, AFTER_MB = 8.0, 7.0
VOCABULARY = np.asarray([f"term{number}" for number in range(5000)])


def tables_of(shard: int, rows: int, checkpoints: int, terms: int) -> dict[str, pa.Table]:
    """The tables of one shard, by the name of their kind or part."""
    rng = np.random.default_rng(shard)
    ids, source = example_ids(shard, rows), np.minimum(rng.geometric(0.3, rows), SOURCES) - 1
    names = [f"source {number}" for number in source]
    level, rate = rng.gamma(2.0, 1.0, rows), rng.gamma(2.0, 0.1, rows)
    losses = level[:, None] * np.exp(-np.arange(checkpoints) * rate[:, None]) + rng.gamma(1, 0.02, (rows, checkpoints))
    texts = [" ".join(VOCABULARY[one]) for one in rng.integers(0, len(VOCABULARY), (rows, terms))]
    spans = pa.array([[1, 2]] * rows, pa.list_(pa.int32()))
    cluster = (source * CLUSTERS_PER_SOURCE + rng.integers(0, CLUSTERS_PER_SOURCE, rows)).astype(np.int32)
    empty = pa.nulls(rows, pa.int32())
    half = [text[: len(text) // 2] for text in texts]
    scored = [ids, names, pa.array(rng.integers(1, 400, rows), pa.int32()), ["ok"] * rows, list(losses)]
    schema = trajectories_schema(checkpoints, ())
    selected = np.flatnonzero(rng.random(rows) < 0.1).astype(np.int32)
    return {
        "tokens": pa.table([ids, names, ["ok"] * rows, [[1, 2]] * rows, spans], schema=TOKENS),
        "text": pa.table([half, texts, empty, texts, ["rows.jsonl"] * rows, list(range(rows))], schema=TEXT),
        "trajectories": pa.table([pa.array(one, f.type) for one, f in zip(scored, schema, strict=True)], schema=schema),
        "clusters": pa.table([ids, cluster, rng.gamma(2, 0.1, rows).astype(np.float32)], schema=CLUSTERS),
        "subset": pa.table(
            [
                [ids[row] for row in selected],
                [names[row] for row in selected],
                cluster[selected],
                np.full(len(selected), shard, np.int32),
                selected,
                pa.nulls(len(selected), pa.float32()),
                np.full(len(selected), 0.1, np.float32),
            ],
            schema=SUBSET,
        ),
    }


def write_pool(root: str, rows: int, checkpoints: int, terms: int) -> Artifact:
    """Write the artifacts of a job and return its subset."""
    uris = {kind: f"{root}/{kind}/{0:012x}" for kind in ("dataset", "trajectories", "clusters", "subset")}
    parts, files = ("trajectories", "clusters"), {kind: [] for kind in uris}
    subsets = []
    sources: Counter[str] = Counter()
    for shard, start in enumerate(range(0, rows, SHARD)):
        tables = tables_of(shard, min(SHARD, rows - start), checkpoints, terms)
        for name, path in (("tokens", tokens_path(shard)), ("text", text_path(shard))):
            files["dataset"].append(write_table(uris["dataset"], path, tables[name]))
        for kind in parts:
            files[kind].append(write_table(uris[kind], shard_path(shard), tables[kind]))
        subsets.append(tables["subset"])
        sources.update(tables["tokens"]["source"].to_pylist())
    subset = pa.concat_tables(subsets)
    files["subset"].append(write_table(uris["subset"], shard_path(0), subset))
    shards = -(-rows // SHARD)
    facts: dict[str, Facts] = {
        "dataset": DatasetFacts({"ok": rows}, dict(sources), 40 * rows, 39 * rows, 0, 400, shards, 300),
        "trajectories": TrajectoriesFacts(list(range(checkpoints)), [], dict(sources)),
        "clusters": ClustersFacts(SOURCES * CLUSTERS_PER_SOURCE, 0, 0.0, "source", {}, 0.0),
        "subset": SubsetFacts("s2l", len(subset), rows, rows, dict(Counter(subset["source"].to_pylist()))),
    }
    made: list[str] = []
    for kind, uri in uris.items():
        inputs = dict.fromkeys(made, uri.rsplit("/", 1)[-1])
        artifact = write_artifact(uri, kind, [], facts[kind], inputs, files[kind])
        made.append(kind)
    config = {"run": "bench", "data": {"root": "."}, "select": {"method": "s2l", "budget": len(subset)}}
    return write_manifest(artifact.uri, replace(artifact.manifest, config=config))


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--checkpoints", type=int, default=12)
    arguments.add_argument("--terms", type=int, default=60)
    settings = arguments.parse_args()
    stages = Stages()
    found = Report("report", vars(settings), ["plotly", "pyarrow", "numpy"])
    with tempfile.TemporaryDirectory() as root:
        subset = write_pool(root, settings.rows, settings.checkpoints, settings.terms)
        page, explorer = Path(root) / "report.html", Path(root) / "explorer.parquet"
        for name, files in (("page", {"to": str(page)}), ("explorer table", {"explorer": str(explorer)})):
            cpu = time.process_time()
            with stages.measure(name):
                report(subset, **files)
            stage, cpu = stages.by_name[name], time.process_time() - cpu
            found.add(Row(f"{name}, processor seconds", [cpu], remark=f" {stage.seconds:.1f} s in all"))
            found.add(Row(f"{name}, peak memory, MB", [stage.driver]))
        found.add(Row("size of the page, MB", [page.stat().st_size / 1e6], MUST_MB, AFTER_MB, lower_is_better=True))
        found.add(Row("size of the explorer table, MB", [explorer.stat().st_size / 1e6]))
    return found.finish(RESULTS / "report.json")


if __name__ == "__main__":
    sys.exit(main())
