"""Sampled rows and sizes of pools, against the embedded data set, whose rejected rows are known."""

import json
from pathlib import Path

from s2l_ray.config.load import load_config
from s2l_ray.demo.dataset import make_demo
from s2l_ray.pipeline.probe.sample import sample_pool
from tests.support.jobs import small_job


def test_a_pool_that_is_read_whole_has_its_exact_size(tmp_path: Path) -> None:
    job = small_job(tmp_path, rows=300)
    truth = make_demo(tmp_path / "same", rows=300)
    found = sample_pool(load_config(job), 40, seconds=60.0)
    assert found.size.read == len(truth.rows)
    assert found.size.held_out
    assert found.size.rows == len(truth.rows) - sum(truth.rejected().values()) - found.size.held_out
    (rows,) = found.rows
    assert len(rows) == 40 and len({*rows}) == 40
    assert all("source" in json.loads(row) for row in rows)


def test_a_source_with_a_sample_has_at_most_its_rows(tmp_path: Path) -> None:
    config = load_config(small_job(tmp_path, rows=300), ["data.sources.0.rows=50", "data.held_out=null"])
    size = sample_pool(config, 20, seconds=60.0).size
    assert (size.rows, size.held_out) == (50, 0)


def test_a_pool_that_is_read_in_part_is_extrapolated(tmp_path: Path) -> None:
    config = load_config(small_job(tmp_path, rows=3000), ["data.duplicates=keep", "data.held_out=null"])
    whole, part = (sample_pool(config, 20, seconds).size.rows for seconds in (60.0, 0.0))
    assert whole and part and abs(part / whole - 1) < 0.2
