"""Estimates and refusals before anything starts, against figures computed by hand."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import NO_TARGET_TOKENS
from s2l_ray.config.load import make_config
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.plan import Plan, plan
from s2l_ray.pipeline.preflight import check_feasible, estimate, free_bytes
from s2l_ray.pipeline.run import run
from tests.support.pool_artifacts import PoolRow, write_checkpoints, write_dataset

OK_ROWS, OTHER_ROWS, TOKENS = 40, 2, 5
PARAMETERS = 3 * 4 + 5

PlanJob = Callable[..., Plan]


@pytest.fixture
def plan_job(tmp_path: Path) -> PlanJob:
    """Plans a job; arguments are sections to update, and `to`."""
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n')

    def planned(to: str = "subset", **sections: dict[str, Any]) -> Plan:
        values: dict[str, Any] = {
            "root": str(tmp_path / "root"),
            "run": "test",
            "data": {
                "root": str(tmp_path),
                "sources": [{"path": "rows.jsonl"}],
                "tokenizer": {"train": {"vocab_size": 400}},
            },
            "proxy": {
                "model": {"architecture": "gpt_neox"},
                "epochs": 2,
                "batch_size": 8,
                "checkpoints": {"fraction": 0.2},
            },
            "select": {"budget": "10%"},
        }
        for name, update in sections.items():
            values[name] = {**values.get(name, {}), **update}
        return plan(make_config(values, "test"), to)

    return planned


def with_dataset(planned: Plan) -> Artifact:
    """Complete its dataset: two shards, with rows that cannot be selected."""
    rows = [PoolRow(f"row-{number}") for number in range(OK_ROWS)]
    others = [PoolRow(f"other-{number}", status=NO_TARGET_TOKENS) for number in range(OTHER_ROWS)]
    return write_dataset(planned["dataset"].uri, [rows[:30], rows[30:] + others])


def write_model(folder: Path, vocab_size: int = 400) -> None:
    folder.mkdir()
    save_file({"a": np.zeros((3, 4), np.float32)}, folder / "model-1.safetensors")
    save_file({"b": np.zeros(5, np.float16)}, folder / "model-2.safetensors")
    (folder / "config.json").write_text(json.dumps({"vocab_size": vocab_size}))


def test_before_the_dataset_is_complete_rows_are_not_known(plan_job: PlanJob, tmp_path: Path) -> None:
    figures = estimate(plan_job())
    assert (figures.rows, figures.tokens, figures.budget, figures.max_rows) == (None, None, None, None)
    assert figures.checkpoints == 6  # 0, 20%, ..., 100%
    assert (figures.parameters, figures.bytes_needed) == (None, None)
    assert figures.bytes_free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)


def test_figures_of_a_complete_dataset(plan_job: PlanJob) -> None:
    with_dataset(plan_job())
    figures = estimate(plan_job())
    assert (figures.rows, figures.max_rows, figures.budget) == (OK_ROWS, OK_ROWS, OK_ROWS // 10)
    assert figures.tokens == TOKENS * (OK_ROWS + OTHER_ROWS)
    check_feasible(plan_job(), figures)


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        ({"limit": 100}, 100),
        ({"limit": "50%"}, None),
        ({"sources": [{"path": "rows.jsonl", "rows": 7}]}, 7),
        ({"sources": [{"path": "rows.jsonl", "rows": 7}] * 2}, 14),
        ({"sources": [{"path": "rows.jsonl", "rows": 7}, {"path": "rows.jsonl"}]}, None),
        ({"sources": [{"path": "rows.jsonl", "rows": 7}], "limit": 5}, 5),
        ({"sources": [{"path": "rows.jsonl", "rows": 7}], "limit": 9}, 7),
    ],
)
def test_the_most_rows_that_a_job_admits(plan_job: PlanJob, data: dict[str, Any], rows: int | None) -> None:
    assert estimate(plan_job(data=data)).max_rows == rows


# 40 rows in batches of 8 are 5 steps an epoch, 10 in 2 epochs.
@pytest.mark.parametrize(
    ("proxy", "unknown_rows", "rows_known"),
    [
        ({"checkpoints": {"fraction": 0.1}}, 11, 11),
        ({"checkpoints": {"fraction": 0.3}}, 4, 4),
        ({"checkpoints": {"epoch_ends": True}}, 3, 3),
        ({"checkpoints": {"epoch_ends": True, "fraction": 0.5}}, 3, 3),
        ({"checkpoints": {"log": 4}}, 5, 5),  # 0, and 1, 2, 5, 10
        ({"checkpoints": {"steps": 3}}, None, 4),  # 0, 3, 6, 9
        ({"checkpoints": {"examples": 20}}, None, 5),  # 0, and 2, 5, 7, 10: the steps of 20, 40, 60, 80 examples
        ({"checkpoints": {"steps": 3}, "train_examples": 16}, 2, 2),  # of 4 steps
        ({"checkpoints": {"steps": 3}, "epochs": 3}, None, 6),  # of 15 steps
    ],
)
def test_numbers_of_checkpoints(
    plan_job: PlanJob, proxy: dict[str, Any], unknown_rows: int | None, rows_known: int
) -> None:
    assert estimate(plan_job(proxy=proxy)).checkpoints == unknown_rows
    with_dataset(plan_job())
    assert estimate(plan_job(proxy=proxy)).checkpoints == rows_known


def test_a_limit_of_rows_replaces_the_pool_until_it_is_known(plan_job: PlanJob) -> None:
    figures = estimate(plan_job(data={"limit": 80}, proxy={"checkpoints": {"steps": 5}}))
    assert figures.checkpoints == 5  # 10 steps an epoch: 0, 5, ..., 20


def test_disk_for_checkpoints_of_a_local_model(plan_job: PlanJob, tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    proxy = {"model": "model"}
    figures = estimate(plan_job(proxy=proxy))
    assert figures.parameters == PARAMETERS
    # 6 checkpoints, and two resume states of weights and two moments, in float32.
    assert figures.bytes_needed == (6 + 2 * 3) * PARAMETERS * 4
    stored = Path(plan_job(proxy=proxy)["checkpoints"].uri) / "step-000000" / "model.safetensors"
    stored.parent.mkdir(parents=True)
    stored.write_bytes(bytes(100))
    assert estimate(plan_job(proxy=proxy)).bytes_needed == (6 + 2 * 3) * PARAMETERS * 4 - 100


@pytest.mark.parametrize("model", ["owner/pythia-70m", {"architecture": "gpt_neox", "hidden_size": 64}])
def test_the_size_of_a_model_that_is_not_local_is_not_known(plan_job: PlanJob, model: object) -> None:
    figures = estimate(plan_job(proxy={"model": model}))
    assert (figures.parameters, figures.bytes_needed) == (None, None)
    check_feasible(plan_job(proxy={"model": model}))


def test_complete_checkpoints_need_no_disk(plan_job: PlanJob, tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    planned = plan_job(proxy={"model": "model"})
    with_dataset(planned)
    write_checkpoints(planned["checkpoints"].uri, [0, 1])
    assert estimate(plan_job(proxy={"model": "model"})).bytes_needed == 0


def test_a_method_without_a_proxy_has_no_figures_of_one(plan_job: PlanJob) -> None:
    planned = plan_job(select={"method": "random"}, proxy={"batch_size": 1000})
    with_dataset(planned)
    figures = estimate(planned)
    assert (figures.checkpoints, figures.parameters, figures.bytes_needed) == (None, None, None)
    check_feasible(planned)


def test_free_bytes_are_known_for_local_roots_alone(tmp_path: Path) -> None:
    assert free_bytes(str(tmp_path / "not" / "yet")) == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    assert free_bytes("s3://bucket/root") is None


@pytest.mark.parametrize(
    ("budget", "fits"), [(40, True), (41, False), ("100%", True), ("2.5%", True), ("2%", False), (1, True)]
)
def test_budgets_of_a_complete_dataset(plan_job: PlanJob, budget: object, fits: bool) -> None:
    with_dataset(plan_job())
    planned = plan_job(select={"budget": budget})
    if fits:
        check_feasible(planned)
        return
    with pytest.raises(ConfigError, match=r"select\.budget"):
        check_feasible(planned)
    check_feasible(plan_job("clusters", select={"budget": budget}))


def test_a_budget_over_the_most_rows_of_a_job_is_refused(plan_job: PlanJob) -> None:
    check_feasible(plan_job(data={"limit": 10}, select={"budget": 10}))
    check_feasible(plan_job(data={"limit": "1%"}, select={"budget": 10}))
    with pytest.raises(ConfigError, match=r"select\.budget"):
        check_feasible(plan_job(data={"limit": 10}, select={"budget": 11}))


@pytest.mark.parametrize(
    ("proxy", "key"),
    [
        ({"batch_size": 40}, None),
        ({"batch_size": 41}, "proxy.batch_size"),
        ({"train_examples": 40}, None),
        ({"train_examples": 41}, "proxy.train_examples"),
        ({"train_examples": 7}, "proxy.batch_size"),
    ],
)
def test_a_training_needs_enough_rows(plan_job: PlanJob, proxy: dict[str, Any], key: str | None) -> None:
    check_feasible(plan_job(proxy=proxy))  # before rows are known
    with_dataset(plan_job())
    planned = plan_job(proxy=proxy)
    if key is None:
        check_feasible(planned)
        return
    with pytest.raises(ConfigError, match=key):
        check_feasible(planned)
    write_checkpoints(planned["checkpoints"].uri, [0, 1])
    check_feasible(plan_job(proxy=proxy))  # nothing is trained any more


def test_a_training_needs_enough_rows_of_those_that_a_job_admits(plan_job: PlanJob) -> None:
    check_feasible(plan_job(data={"limit": 8}))
    with pytest.raises(ConfigError, match=r"proxy\.batch_size"):
        check_feasible(plan_job(data={"limit": 7}))


@pytest.mark.parametrize(
    ("select", "target", "fits"),
    [
        ({"budget": 8}, {}, True),
        ({"budget": 7}, {}, False),
        ({"budget": "20%"}, {}, True),
        ({"budget": "19%"}, {}, False),
        ({"budget": {"tokens": 7}}, {}, True),
        ({"budget": 7}, {"rows": "pool"}, True),
        ({"budget": 7}, {"rows": "pool", "batch_size": 41}, False),
    ],
)
def test_a_batch_of_the_target_must_not_exceed_its_rows(
    plan_job: PlanJob, select: dict[str, Any], target: dict[str, Any], fits: bool
) -> None:
    job = {"select": {"method": "random", **select}, "target": {"model": {"architecture": "gpt2"}, "batch_size": 8}}
    job["target"] |= target
    with_dataset(plan_job("target", **job))
    if fits:
        check_feasible(plan_job("target", **job))
        return
    with pytest.raises(ConfigError, match=r"target\.batch_size"):
        check_feasible(plan_job("target", **job))


@pytest.mark.parametrize("section", ["score", "cluster"])
def test_steps_that_will_not_be_recorded_are_refused_before_training(plan_job: PlanJob, section: str) -> None:
    """Two epochs of five steps, saved at every fifth of them."""
    proxy = {"train_examples": 40}
    check_feasible(plan_job(proxy=proxy, **{section: {"checkpoints": [2, 10]}}))
    check_feasible(plan_job(**{section: {"checkpoints": [3, 10]}}))  # before rows are known
    with pytest.raises(ConfigError, match=rf"{section}\.checkpoints"):
        check_feasible(plan_job(proxy=proxy, **{section: {"checkpoints": [3, 10]}}))


def test_checkpoints_that_do_not_fit_on_the_disk_are_refused(plan_job: PlanJob, tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    planned = plan_job(proxy={"model": "model"})
    figures = estimate(planned)
    needed = figures.bytes_needed
    assert needed is not None
    for free in (needed, None):
        check_feasible(planned, replace(figures, bytes_free=free))
    with pytest.raises(ConfigError, match=r"proxy\.checkpoints"):
        check_feasible(planned, replace(figures, bytes_free=needed - 1))


@pytest.mark.parametrize(("rows", "fits"), [(400, True), (399, False), (50_000, True)])
def test_a_trained_tokenizer_must_fit_the_embedding_of_a_local_model(
    plan_job: PlanJob, tmp_path: Path, rows: int, fits: bool
) -> None:
    write_model(tmp_path / "model", vocab_size=rows)
    planned = plan_job(proxy={"model": "model"})
    if fits:
        check_feasible(planned)
        return
    with pytest.raises(ConfigError, match=r"data\.tokenizer"):
        check_feasible(planned)


@pytest.mark.parametrize(("largest", "fits"), [(399, True), (400, False)])
def test_a_local_tokenizer_must_fit_the_embedding(plan_job: PlanJob, tmp_path: Path, largest: int, fits: bool) -> None:
    write_model(tmp_path / "model")
    (tmp_path / "tokenizer").mkdir()
    Tokenizer(WordLevel({"a": 0, "b": largest}, unk_token="a")).save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    planned = plan_job(data={"tokenizer": "tokenizer"}, proxy={"model": "model"})
    if fits:
        check_feasible(planned)
        return
    with pytest.raises(ConfigError, match=r"data\.tokenizer"):
        check_feasible(planned)


def test_the_vocabulary_of_a_complete_dataset_counts(plan_job: PlanJob, tmp_path: Path) -> None:
    write_model(tmp_path / "model", vocab_size=350)
    planned = plan_job(proxy={"model": "model"})
    with pytest.raises(ConfigError, match=r"data\.tokenizer"):
        check_feasible(planned)
    with_dataset(planned)  # of 300 tokens: fewer rows than a trained vocabulary may have
    check_feasible(plan_job(proxy={"model": "model"}))


def test_a_folder_without_a_model_is_refused(plan_job: PlanJob, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for content in (None, "{", "\xff"):
        if content is not None:
            (tmp_path / "model" / "config.json").write_text(content, encoding="latin-1")
        with pytest.raises(ConfigError, match=r"proxy\.model"):
            check_feasible(plan_job(proxy={"model": "model"}))


def test_run_refuses_before_anything_is_written(plan_job: PlanJob, tmp_path: Path) -> None:
    planned = plan_job(data={"limit": 10}, select={"budget": 11})
    with pytest.raises(ConfigError, match=r"select\.budget"):
        run(planned.config)
    assert not (tmp_path / "root").exists()
