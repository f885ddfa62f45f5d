"""finetune: the training of a target that follows from a config, and its rows and steps."""

from pathlib import Path
from typing import Any

import pytest

from s2l_ray.artifacts.execution import TrainExecution
from s2l_ray.artifacts.facts import DatasetFacts
from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.config.sections import Target
from s2l_ray.core.training.schedule import grid_steps
from s2l_ray.errors import ConfigError
from s2l_ray.runtime.training.rows import read_selected_rows
from s2l_ray.stages.train import make_target_job, total_steps
from tests.support.pool_artifacts import PoolRow, write_artifact, write_subset
from tests.support.stage_build import local_build, stage_config
from tests.support.tiny_training import make_job as tiny_job

EXECUTION = TrainExecution(1, 0, 1, 4, "ddp", "padded", False)
TARGET = {"model": {"architecture": "gpt2", "n_embd": 16}, "batch_size": 8, "epochs": 3, "seed": 5}


def target_of(**changes: Any) -> Target:
    return Target.model_validate({**TARGET, **changes})


# 96 rows in the pool are 12 steps an epoch, 20 rows of the subset 2
@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"compute": "same_steps"}, 36),
        ({"compute": "same_epochs"}, 6),
        ({"compute": {"steps": 7}}, 7),
        ({"rows": "none"}, 0),
        ({"rows": "none", "compute": {"steps": 7}}, 0),
    ],
)
def test_steps_of_a_target(changes: dict[str, Any], steps: int) -> None:
    assert total_steps(target_of(**changes), pool_rows=96, train_rows=20) == steps
    assert total_steps(target_of(rows="pool"), pool_rows=96, train_rows=96) == 36


@pytest.mark.parametrize("rows", [7, 0])
def test_rows_that_are_no_batch_are_refused(rows: int) -> None:
    with pytest.raises(ConfigError, match=r"target\.batch_size"):
        total_steps(target_of(), pool_rows=96, train_rows=rows)


@pytest.fixture
def dataset(tmp_path: Path) -> Artifact:
    facts = DatasetFacts({"ok": 96, "no_target_tokens": 4}, {"sums": 100}, 900, 500, 2, 41, 1, 400)
    return write_artifact(f"{tmp_path}/dataset/{'0' * 12}", "dataset", [], facts)


@pytest.mark.parametrize(("changes", "checkpoints"), [({}, [36]), ({"rows": "none"}, [0])])
def test_only_the_final_model_is_stored(
    tmp_path: Path, dataset: Artifact, changes: dict[str, Any], checkpoints: list[int]
) -> None:
    config = stage_config(tmp_path, target={**TARGET, "rows": "pool", **changes})
    job = make_target_job(local_build("target", tmp_path / "target", config, [dataset], EXECUTION))
    assert job.planned_steps() == grid_steps(96, job.settings) == checkpoints
    assert (job.subset, job.train_rows(), job.settings.seed) == (None, 96, 5)
    assert (job.model, job.vocab_size, job.longest) == (TARGET["model"], 400, 41)


def test_a_target_is_trained_on_the_rows_of_the_subset(tmp_path: Path) -> None:
    dataset = open_artifact(tiny_job(tmp_path).dataset)
    tables = list(dataset.read_tables())
    rows = [[PoolRow("", "", status, ()) for status in table["status"].to_pylist()] for table in tables]
    selected = [3, 2, 70, 9, 127, 65]  # of 2 shards of 64 rows
    subset = write_subset(f"{tmp_path}/subset/{'1' * 12}", rows, selected, {"dataset": "0" * 12}, "random")
    found = read_selected_rows(dataset, subset)
    every = [ids for table in tables for ids in table["input_ids"].to_pylist()]
    taken = [found.take([position]).ids_X.tolist() for position in range(len(found))]
    assert taken == [every[row] for row in sorted(selected)]
