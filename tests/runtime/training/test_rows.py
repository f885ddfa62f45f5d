"""Rows that a training worker reads, against the table."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.errors import DamagedError
from s2l_ray.runtime.training.rows import read_held_out_rows, read_rows
from tests.support.tiny_training import make_job


def test_rows_equal_those_of_the_table_with_status_ok(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    dataset = open_artifact(job.dataset)
    expected = [row for row in dataset.read_table().to_pylist() if row["status"] == "ok"]
    everything = np.arange(job.rows_ok)
    for index in (everything, everything[::3], everything[50:60], everything[:0]):
        rows = read_rows(dataset, job.rows_ok, index)
        assert len(rows) == len(index)
        for position, row in enumerate(index):
            taken = rows.take([position])
            assert taken.ids_X.tolist() == expected[row]["input_ids"]
            assert taken.spans_S2.ravel().tolist() == expected[row]["target_spans"]


def test_held_out_rows_are_those_of_their_own_shards(tmp_path: Path) -> None:
    dataset = open_artifact(make_job(tmp_path).dataset)
    table = dataset.read_file("held_out/tokens/shard-00000.parquet")
    expected = [row["input_ids"] for row in table.to_pylist() if row["status"] == "ok"]
    rows = read_held_out_rows(dataset)
    assert [rows.take([position]).ids_X.tolist() for position in range(len(rows))] == expected
    files = [record for record in dataset.manifest.files if not record.path.startswith("held_out/")]
    without = dataclasses.replace(dataset, manifest=dataclasses.replace(dataset.manifest, files=files))
    assert len(read_held_out_rows(without)) == 0


def test_a_dataset_of_another_size_or_a_damaged_shard_is_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    with pytest.raises(DamagedError, match="112 rows"):
        read_rows(open_artifact(job.dataset), 113, np.arange(3))
    shard = tmp_path / "dataset/tokens/shard-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-20] + b"x" * 20)
    with pytest.raises(DamagedError, match="shard-00001"):
        read_rows(open_artifact(job.dataset), job.rows_ok, np.arange(3))
