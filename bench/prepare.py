"""What `prepare` takes: memory and reads of its passes over one large gzip file, and reads with many shards.

    python -m bench.prepare [--megabytes 1000] [--row-bytes 1000]

Every pass runs in a process of its own with one worker, without Ray. Its peak memory is that of the whole process,
libraries included; its reads are those that the kernel counts. Exits 1 where a bound is exceeded.
"""

import argparse
import gzip
import io
import json
import multiprocessing
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from bench.rounds import RESULTS, Report, Row
from s2l_ray.artifacts.execution import PrepareExecution
from s2l_ray.config.load import make_config
from s2l_ray.core.data.tokenization import train_tokenizer
from s2l_ray.runtime.contracts import Cluster, Done, Failed, PoolOptions, ResourceRequest, Unit, ignore_progress
from s2l_ray.stages.build import Build
from s2l_ray.stages.prepare.prepare import prepare

MUST_MB, MUST_READS = 1000.0, 4.0
RANGES, SHARDS = 3, 32
ONE_WORKER = Cluster(local=True, nodes=1, cpus=1.0, gpus=0.0, cores=1)

U = TypeVar("U", bound=Unit)
R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True)
class Usage:
    """Peak memory of a process and the bytes it has read."""

    peak_bytes: int
    read_bytes: int


@dataclass(frozen=True)
class MeasuredBuild(Build[PrepareExecution]):
    """A build whose passes run in a process each. usage: of the passes so far, by name.

    preload: import transformers first, so that its files do not count as reads.
    """

    preload: bool = False
    usage: dict[str, Usage] = field(default_factory=dict)

    def run_units(
        self, units: Sequence[U], worker: Callable[..., Callable[[U], R]], options: PoolOptions, **arguments: object
    ) -> Iterator[Done[R] | Failed]:
        """Results of the units, in order."""
        results = self._measured(options.name, _run_all, worker, arguments, units)
        return (Done(unit.name, result) for unit, result in zip(units, results, strict=True))

    def run_on_one_node(
        self, name: str, memory_hint: str, request: ResourceRequest, function: Callable[..., T], *arguments: object
    ) -> T:
        """Result of the function."""
        return self._measured(name, function, *arguments)

    def _measured(self, name: str, function: Callable[..., T], *arguments: object) -> T:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, spawn, _import_transformers if self.preload else None) as process:
            before = process.submit(_usage).result()
            result = process.submit(function, *arguments).result()
            after = process.submit(_usage).result()
        self.usage[name] = Usage(after.peak_bytes, after.read_bytes - before.read_bytes)
        return result


def _run_all(worker: Callable[..., Callable[[U], R]], arguments: Mapping[str, object], units: Sequence[U]) -> list[R]:
    run = worker(**arguments)
    return [run(unit) for unit in units]


def _import_transformers() -> None:
    import pandas  # noqa: F401  # by pyarrow
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # noqa: F401  # lazily loaded modules

    import s2l_ray.stages.prepare.prepare  # noqa: F401


def _usage() -> Usage:
    counted = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return Usage(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10, int(counted["rchar"]))


def write_rows(path: Path, rows: int, row_bytes: int) -> int:
    """Write rows of random English-like text, gzipped if the name says so. Returns the bytes of text."""
    rng, total = np.random.default_rng(0), 0
    vocabulary = ["".join(chr(97 + letter) for letter in rng.integers(0, 26, rng.integers(2, 9))) for _ in range(5000)]
    words = max(1, row_bytes // 7)
    with gzip.open(path, "wb", 1) if path.name.endswith(".gz") else path.open("wb") as file:
        buffered = io.BufferedWriter(file, 1 << 20)  # type: ignore[arg-type]  # gzip has no raw stream
        for number in range(rows):
            chosen = [vocabulary[word] for word in rng.integers(0, len(vocabulary), words)]
            row = {"prompt": f"{number} {' '.join(chosen[: words // 2])}", "response": " ".join(chosen[words // 2 :])}
            total += buffered.write(json.dumps(row).encode() + b"\n")
        buffered.flush()
    return total


def prepare_measured(folder: Path, rows: Path, shard_size: int, range_bytes: int, preload: bool) -> dict[str, Usage]:
    """Usage of the passes of `prepare` over one file, with a tokenizer trained on its first rows."""
    texts = (f"{line[:1000]!r}" for _, line in zip(range(2000), _lines(rows), strict=False))
    train_tokenizer(texts, 2048).save_pretrained(str(folder / "tokenizer"))
    values = {
        "root": str(folder / "artifacts"),
        "run": "prepare",
        "data": {
            "root": str(folder),
            "sources": [{"path": rows.name}],
            "tokenizer": "./tokenizer",
            "shard_size": shard_size,
        },
        "proxy": {"model": "unused/unused"},
        "select": {"budget": 1},
    }
    config = make_config(values, "bench.prepare")
    execution = PrepareExecution(range_bytes)
    place = str(folder / "dataset")
    build = MeasuredBuild("dataset", place, config, {}, execution, ONE_WORKER, ignore_progress, preload=preload)
    prepare(build)
    return build.usage


def _lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt") if path.name.endswith(".gz") else path.open() as file:
        yield from file


def main() -> int:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="text of the gzip file")
    parser.add_argument("--row-bytes", type=int, default=1000)
    options = parser.parse_args()
    report = Report("prepare", vars(options), ["pyarrow", "tokenizers", "transformers", "numpy"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = options.megabytes * 1_000_000 // options.row_bytes
        size = write_rows(folder / "rows.jsonl.gz", rows, options.row_bytes)
        for name, usage in prepare_measured(folder, folder / "rows.jsonl.gz", 8192, 64 << 20, preload=False).items():
            peak = usage.peak_bytes / 1e6
            report.add(Row(f"peak memory, MB: {name}, {size / 1e6:.0f} MB of text", [peak], MUST_MB, 500.0, True))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        size = write_rows(folder / "rows.jsonl", SHARDS * 500, options.row_bytes)
        usages = prepare_measured(folder, folder / "rows.jsonl", 500, -(-size // RANGES), preload=True)
        for name, usage in usages.items():
            report.add(Row(f"bytes read / bytes of text: {name}", [usage.read_bytes / size]))
        ratio = sum(usage.read_bytes for usage in usages.values()) / size
        report.add(Row(f"bytes read / bytes of text, {RANGES} ranges, {SHARDS} shards", [ratio], MUST_READS, 3.0, True))
    return report.finish(RESULTS / "prepare.json")


if __name__ == "__main__":
    sys.exit(main())
