"""Methods that read what a job does not record are refused by the plan's checks, before anything is built."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2l_ray.config.load import make_config
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.checks.selection import check_selection
from s2l_ray.pipeline.plan import plan


def check(folder: Path, select: dict[str, Any], **proxy: Any) -> None:
    (folder / "rows.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    statistics, features = proxy.pop("statistics", ["loss"]), proxy.pop("features", "trajectories")
    values = {
        "root": str(folder / "root"),
        "run": "test",
        "data": {"root": str(folder), "sources": [{"path": "rows.jsonl"}], "tokenizer": {"train": {"vocab_size": 300}}},
        "proxy": {"model": {"architecture": "gpt2"}, "batch_size": 4, "epochs": 2, **proxy},
        "score": {"statistics": statistics},
        "cluster": {"features": features},
        "select": {"budget": 1, **select},
    }
    check_selection(plan(make_config(values, "test")))


@pytest.mark.parametrize(
    ("method", "statistic"),
    [
        ("el2n", "el2n"),
        ("grand", "grand"),
        ("high_entropy", "top_entropy"),
        ("forgetting", "token_accuracy"),
        ("variability", "mean_probability"),
    ],
)
def test_a_missing_statistic_is_named_with_its_key(tmp_path: Path, method: str, statistic: str) -> None:
    with pytest.raises(ConfigError, match=rf"score\.statistics.*{statistic}"):
        check(tmp_path, {"method": method})
    check(tmp_path, {"method": method}, statistics=["loss", statistic])


def test_a_missing_epoch_end_is_named_with_its_key(tmp_path: Path) -> None:
    """Of 12 rows in batches of 4, an epoch ends after 3 steps."""
    method = {"method": "learning_percentage"}
    for rows in ({}, {"train_examples": 12}):
        with pytest.raises(ConfigError, match="epoch_ends"):
            check(tmp_path, method, checkpoints={"steps": 2}, **rows)
        check(tmp_path, method, checkpoints={"steps": 2, "epoch_ends": True}, **rows)
    check(tmp_path, method, checkpoints={"steps": 3}, train_examples=12)
    check(tmp_path, {**method, "first": 2}, checkpoints={"steps": 2}, train_examples=12)


def test_a_step_that_will_not_be_saved_is_refused(tmp_path: Path) -> None:
    select = {"method": "loss_high", "checkpoint": 5}
    with pytest.raises(ConfigError, match=r"step 5.*\[0, 2, 4, 6\]"):
        check(tmp_path, select, checkpoints={"steps": 2}, train_examples=12)
    check(tmp_path, {**select, "checkpoint": 4}, checkpoints={"steps": 2}, train_examples=12)


def test_methods_without_a_proxy_need_nothing(tmp_path: Path) -> None:
    for method in ("random", "longest", "stratified"):
        check(tmp_path, {"method": method})


def test_official_s2l_on_embeddings_is_refused(tmp_path: Path) -> None:
    """A row without target tokens has no embedding, and so no cluster to take part in."""
    official = {"method": "s2l", "compat": "official"}
    with pytest.raises(ConfigError, match="trajectories"):
        check(tmp_path, official, features="embeddings")
    check(tmp_path, official)
    check(tmp_path, {"method": "s2l"}, features="embeddings")


@pytest.mark.parametrize(
    ("select", "message"), [({"method": "el2n"}, "losses_from"), ({"method": "learning_percentage"}, r"select\.first")]
)
def test_methods_that_imported_losses_cannot_serve_are_refused(
    tmp_path: Path, select: dict[str, Any], message: str
) -> None:
    pq.write_table(pa.table({"step_0": [2.0, 1.0], "step_1": [1.0, 0.5]}), tmp_path / "losses.parquet")
    losses = {"path": "losses.parquet", "values": "loss", "columns": {0: "step_0", 1: "step_1"}}
    values = {"root": str(tmp_path / "root"), "run": "test", "data": {"root": str(tmp_path)}}
    job = {**values, "score": {"losses_from": losses}, "select": {"budget": 1, **select}}
    with pytest.raises(ConfigError, match=message):
        check_selection(plan(make_config(job, "test")))
    named = {"method": "learning_percentage", "first": 1, "budget": 1}
    check_selection(plan(make_config({**job, "select": named}, "test")))
    (tmp_path / "dynamics.jsonl").write_text('{"guid": 0, "logits_epoch_0": [1.0, 0.0], "gold": 0}\n')
    dynamics = {"losses_from": {"path": "dynamics.jsonl", "values": "logits"}}
    probability = {"method": "variability", "budget": 1}
    check_selection(plan(make_config({**job, "score": dynamics, "select": probability}, "test")))
