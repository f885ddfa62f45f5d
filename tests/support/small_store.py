"""A root with a complete dataset and a subset of it, written without Ray by the writers that the stages use."""

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from s2l_ray.artifacts.facts import Counts, DatasetFacts, Facts, SubsetFacts
from s2l_ray.artifacts.manifest import Artifact, write_manifest
from s2l_ray.artifacts.runs import record_run
from s2l_ray.artifacts.schemas import REJECTED, SUBSET, TEXT, TOKENS, shard_path, text_path, tokens_path
from s2l_ray.artifacts.tables import FileRecord, write_table
from s2l_ray.core.data.examples import FORMATS, guess_format
from s2l_ray.core.data.turns import example_id, prompt_text, response_text
from tests.support import sample_artifacts
from tests.support.sample_artifacts import put_bytes

DATASET_NAME, SUBSET_NAME = "0123456789ab", "ba9876543210"


@dataclass(frozen=True)
class Store:
    """A root, its raw rows in the order of the pool, and the positions of the selected ones."""

    root: Path
    rows: list[dict[str, Any]]
    selected: list[int]
    dataset: Artifact
    subset: Artifact


def raw_rows(number: int) -> list[dict[str, Any]]:
    """Rows of two sources that differ in their fields."""
    rows: list[dict[str, Any]] = []
    for position in range(number):
        row: dict[str, Any] = {"instruction": f"What is {position} + 1? é\n", "output": f"It is {position + 1}."}
        row["source"] = "sums" if position % 3 else "other"
        if position % 3 == 0:
            row |= {"level": position, "tags": [{"name": "a", "weight": 0.5}], "note": None}
        rows.append(row)
    return rows


def write_store(root: Path, rows: list[dict[str, Any]] | None = None, shard_size: int = 8) -> Store:
    """Write the root: every second row is selected, but none of the second shard."""
    rows = raw_rows(30) if rows is None else rows
    dataset = _write_dataset(str(root), rows, shard_size)
    selected = [position for position in range(0, len(rows), 2) if position // shard_size != 1]
    subset = _write_subset(str(root), dataset, rows, selected, shard_size)
    record_run(str(root), "small", {"dataset": DATASET_NAME, "subset": SUBSET_NAME}, {"run": "small"})
    return Store(root, rows, selected, dataset, subset)


def _write_dataset(root: str, rows: list[dict[str, Any]], shard_size: int) -> Artifact:
    folder = sample_artifacts.begin(root, "dataset", DATASET_NAME)
    values = [_dataset_row(line, row) for line, row in enumerate(rows, 1)]
    shards = range(0, len(rows), shard_size)
    files = [
        write_table(folder, path(number), pa.Table.from_pylist(values[start : start + shard_size], schema=schema))
        for number, start in enumerate(shards)
        for path, schema in ((tokens_path, TOKENS), (text_path, TEXT))
    ]
    files.append(put_bytes(folder, "tokenizer/tokenizer.json", b'{"model": {"vocab": {"a": 0}}}'))
    files.append(write_table(folder, "rejected/rows-00000.parquet", REJECTED.empty_table()))
    by_source = dict(Counter(row.get("source", "rows") for row in rows))
    facts = DatasetFacts({"ok": len(rows)}, by_source, 3 * len(rows), 2 * len(rows), 0, 3, len(shards), 4)
    return _commit(folder, "dataset", {}, files, Counts(len(rows) + 2, len(rows), {"duplicate": 2}), facts)


def _dataset_row(line: int, row: dict[str, Any]) -> dict[str, Any]:
    guess = guess_format(row)
    assert guess is not None
    example = FORMATS[guess[0]](row, guess[1])
    return {
        "example_id": example_id(example),
        "source": row.get("source", "rows"),
        "prompt": prompt_text(example),
        "response": response_text(example),
        "input_ids": [1, 2, 3],
        "target_spans": [1, 3],
        "status": "ok",
        "raw": json.dumps(row, ensure_ascii=False, separators=(",", ":")),
        "file": "rows.jsonl",
        "line": line,
    }


def _write_subset(
    root: str, dataset: Artifact, rows: list[dict[str, Any]], selected: list[int], shard_size: int
) -> Artifact:
    folder = sample_artifacts.begin(root, "subset", SUBSET_NAME)
    ids = dataset.read_table(["example_id"])["example_id"].to_pylist()
    pointers = [
        {
            "example_id": ids[position],
            "source": rows[position].get("source", "rows"),
            "shard": position // shard_size,
            "row": position % shard_size,
            "score": 0.5,
        }
        for position in selected
    ]
    files = [write_table(folder, shard_path(0), pa.Table.from_pylist(pointers, schema=SUBSET))]
    by_source = dict(Counter(pointer["source"] for pointer in pointers))
    facts = SubsetFacts("random", len(pointers), len(rows), len(rows), by_source)
    counts = Counts(len(rows), len(pointers), {"not_selected": len(rows) - len(pointers)})
    return _commit(folder, "subset", {"dataset": DATASET_NAME}, files, counts, facts)


def _commit(
    folder: str, kind: str, inputs: dict[str, str], files: list[FileRecord], counts: Counts, facts: Facts
) -> Artifact:
    name = folder.rsplit("/", 1)[-1]
    sample = sample_artifacts.manifest(kind, name, files, inputs)
    return write_manifest(folder, replace(sample, counts=counts, facts=facts))
