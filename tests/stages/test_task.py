"""A proxy that is trained on the rows of a target task: what is built, and which pools share its checkpoints."""

import json
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.artifacts.facts import CheckpointsFacts, DatasetFacts, TrajectoriesFacts
from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.config.load import make_config
from s2l_ray.config.sections import Config
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.plan import plan
from s2l_ray.pipeline.run import run
from tests.support.local_build import build_locally
from tests.support.tiny_models import NEOX, save_tokenizer, write_rows

TASK = {"path": "task.jsonl", "source": {"name": "task"}}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    save_tokenizer(folder / "tokenizer")
    write_rows(folder / "pool.jsonl", 12)
    write_rows(folder / "more.jsonl", 6, "Other")
    write_rows(folder / "task.jsonl", 40, "Task")
    return folder


def job(root: Path, rows: Path, *sources: str, data: dict[str, Any] | None = None, **proxy: Any) -> Config:
    values: dict[str, Any] = {
        "root": str(root),
        "run": "task",
        "data": {
            "root": str(rows),
            "sources": [{"path": source} for source in sources or ("pool.jsonl",)],
            "tokenizer": "tokenizer",
            "max_length": 32,
            **(data or {}),
        },
        "proxy": {
            "model": NEOX,
            "train_on": TASK,
            "epochs": 2,
            "batch_size": 8,
            "learning_rate": 5e-3,
            "precision": "float32",
            "checkpoints": {"epoch_ends": True},
            **proxy,
        },
        "select": {"method": "loss_drop", "budget": 3},
        "resources": {"train": {"threads": 1}, "score": {"workers": 1}},
    }
    return make_config(values, "test")


def test_the_task_is_prepared_like_the_pool_without_its_limit(tmp_path: Path, rows: Path) -> None:
    config = job(tmp_path, rows, data={"limit": 10})
    task = build_locally(config, "task")
    assert task.facts(DatasetFacts).by_source == {"task": 40}
    table = task.read_shard(0).to_pylist()
    assert [json.loads(row["raw"])["prompt"] for row in table] == [f"Task {number}?" for number in range(40)]
    assert build_locally(config, "dataset").facts(DatasetFacts).ok == 10
    assert len(table[0]["input_ids"]) > 3


def test_checkpoints_depend_on_the_task_and_not_on_the_pool(tmp_path: Path, rows: Path) -> None:
    before = plan(job(tmp_path, rows)).fingerprints
    assert list(before) == ["dataset", "task", "checkpoints", "trajectories", "subset"]
    other = plan(job(tmp_path, rows, "pool.jsonl", "more.jsonl")).fingerprints
    assert {kind for kind in before if before[kind] != other[kind]} == {"dataset", "trajectories", "subset"}
    task = plan(job(tmp_path, rows, train_on={**TASK, "rows": 30})).fingerprints
    assert {kind for kind in before if before[kind] != task[kind]} == set(before) - {"dataset"}
    assert "task" not in plan(job(tmp_path, rows, train_on=None)).fingerprints


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"data": {"tokenizer": {"train": {"vocab_size": 300}}}}, r"data\.tokenizer"),
        ({"train_on": {"path": "a", "hub": "b/c"}}, r"proxy\.train_on"),
        ({"checkpoints_from": [{"path": "a", "step": 0}]}, r"proxy\.train_on"),
    ],
)
def test_jobs_that_are_refused(tmp_path: Path, rows: Path, changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        job(tmp_path, rows, **changes)


def test_a_task_too_small_for_a_batch_is_refused_before_training(tmp_path: Path, rows: Path) -> None:
    config = job(tmp_path, rows, batch_size=64)
    build_locally(config, "task")
    with pytest.raises(ConfigError, match="batch_size"):
        run(config)


def test_a_job_without_a_task_prepares_none(tmp_path: Path, rows: Path) -> None:
    with pytest.raises(ConfigError, match=r"proxy\.train_on"):
        plan(job(tmp_path, rows, train_on=None), "task")


@pytest.mark.long
def test_a_later_pool_is_scored_with_the_same_checkpoints(tmp_path: Path, rows: Path, ray_session: None) -> None:
    config = job(tmp_path, rows)
    subset = run(config)
    checkpoints = open_artifact(plan(config)["checkpoints"].uri)
    assert checkpoints.facts(CheckpointsFacts).steps == [0, 5, 10] and checkpoints.manifest.counts.kept == 40
    trajectories = open_artifact(plan(config)["trajectories"].uri).read_table(["example_id", "losses"]).to_pylist()
    drops = {row["example_id"]: 1 - row["losses"][-1] / row["losses"][0] for row in trajectories}
    expected = sorted(drops, key=lambda name: -drops[name])[:3]
    assert set(subset.read_table()["example_id"].to_pylist()) == set(expected)
    grown = run(job(tmp_path, rows, "pool.jsonl", "more.jsonl"), "trajectories")
    assert grown.manifest.inputs["checkpoints"] == checkpoints.manifest.fingerprint
    assert grown.facts(TrajectoriesFacts).reused == {plan(config)["trajectories"].fingerprint: 3}
