"""train: the training that follows from a config, and counts, facts and warnings of a complete one."""

import dataclasses
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from s2l_ray.artifacts.execution import TrainExecution
from s2l_ray.artifacts.facts import CheckpointsFacts, Counts, DatasetFacts
from s2l_ray.artifacts.fingerprint import seal
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import CHECKPOINT_RECORD, HELD_OUT_TABLE, TRAINING_TABLE
from s2l_ray.artifacts.tables import record_of, write_table
from s2l_ray.core.training.records import CheckpointRecord
from s2l_ray.core.training.schedule import CheckpointGrid
from s2l_ray.errors import ConfigError
from s2l_ray.runtime.contracts import Cluster
from s2l_ray.stages.build import Product
from s2l_ray.stages.train import execution, make_job, resources, train
from tests.support.local_build import LocalBuild
from tests.support.pool_artifacts import write_artifact
from tests.support.stage_build import THIS_MACHINE, Reports, local_build, stage_config

STATUSES = {"ok": 90, "no_target_tokens": 7, "non_finite": 3}
EXECUTION = TrainExecution(
    workers=2, gpus=0, threads=3, micro_batch=4, strategy="ddp", attention="padded", gradient_checkpointing=True
)
PROXY: dict[str, Any] = {
    "model": {"architecture": "gpt2", "n_embd": 16},
    "epochs": 4,
    "learning_rate": 0.003,
    "warmup_ratio": 0.1,
    "weight_decay": 0.01,
    "max_grad_norm": 0.5,
    "batch_size": 20,
    "precision": "float32",
    "checkpoints": {"steps": 5, "epoch_ends": True},
    "train_examples": 60,
    "seed": 7,
}
# 60 rows in batches of 20: 3 steps an epoch, 12 in all
STEPS = 12


@pytest.fixture
def dataset(tmp_path: Path) -> Artifact:
    facts = DatasetFacts(STATUSES, {"sums": 100}, 900, 500, 2, 41, 1, 400)
    return write_artifact(f"{tmp_path}/dataset/{'0' * 12}", "dataset", [], facts)


def build_of(
    folder: Path, dataset: Artifact, reports: Reports | None = None, save_minutes: float = 5.0, **proxy: Any
) -> LocalBuild[Any]:
    config = stage_config(folder, proxy={**PROXY, **proxy}, resources={"train": {"save_minutes": save_minutes}})
    return local_build("checkpoints", folder / "checkpoints", config, [dataset], EXECUTION, reports)


def test_every_key_of_the_proxy_reaches_the_training(tmp_path: Path, dataset: Artifact) -> None:
    build = build_of(tmp_path, dataset, save_minutes=2.5)
    job = make_job(build)
    settings = asdict(job.settings)
    for key in ("epochs", "learning_rate", "warmup_ratio", "weight_decay", "max_grad_norm", "batch_size", "seed"):
        assert settings[key] == PROXY[key], key
    assert job.settings.grid == CheckpointGrid(steps=5, epoch_ends=True)
    assert (job.settings.precision, job.settings.micro_batch, job.settings.attention) == ("float32", 4, "padded")
    assert job.settings.gradient_checkpointing and not job.settings.shard
    assert (job.output, job.dataset) == (build.folder, dataset.uri)
    assert (job.rows_ok, job.vocab_size, job.longest) == (90, 400, 41)
    assert (job.model, job.train_examples) == (PROXY["model"], 60)
    assert (job.threads, job.save_minutes) == (3, 2.5)


def test_a_proxy_is_trained_on_the_rows_of_the_task(tmp_path: Path, dataset: Artifact) -> None:
    facts = DatasetFacts({"ok": 80, "no_target_tokens": 1}, {"task": 81}, 700, 400, 0, 30, 1, 400)
    task = write_artifact(f"{tmp_path}/task/{'1' * 12}", "task", [], facts)
    build = build_of(tmp_path, dataset, train_on={"path": "task.jsonl"})
    build = dataclasses.replace(build, inputs={"task": task})
    job = make_job(build)
    assert (job.dataset, job.rows_ok, job.longest) == (task.uri, 80, 30)
    write_training(build, FALLING, [*HELD_OUT])
    assert train(build).counts == Counts(81, 60, {"no_target_tokens": 1, "not_sampled": 20})


def test_a_model_folder_below_the_data_root_is_passed_as_a_path(tmp_path: Path, dataset: Artifact) -> None:
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    assert make_job(build_of(tmp_path, dataset, model="models/tiny")).model == str(tmp_path / "models" / "tiny")
    assert make_job(build_of(tmp_path, dataset, model="maker/tiny", revision="abc")).model == "maker/tiny"
    with pytest.raises(ConfigError, match=r"proxy\.model"):
        make_job(build_of(tmp_path, dataset, model="./missing"))


def write_training(build: LocalBuild[Any], losses: list[float], held_out: list[float | None]) -> None:
    """A complete training with these losses a step and these held-out losses a checkpoint, as its workers store it."""
    job = make_job(build)
    steps = job.planned_steps()
    assert len(losses) == STEPS and len(held_out) == len(steps)
    for step, loss in zip(steps, held_out, strict=True):
        record = CheckpointRecord(step, step / 3, 20 * step, 0.001, None, loss)
        weights = bytes(f"weights of {step}", "utf-8")
        path = Path(build.folder) / f"step-{step:06d}" / "model.safetensors"
        path.parent.mkdir(parents=True)
        path.write_bytes(weights)
        files = [asdict(record_of(path.name, weights))]
        (path.parent / CHECKPOINT_RECORD).write_bytes(seal({**asdict(record), "attention": None, "files": files}))
    curve = pa.table({"step": list(range(1, STEPS + 1)), "loss": losses, "tokens": [9] * STEPS})
    write_table(build.folder, TRAINING_TABLE, curve)
    names = [column.name for column in fields(CheckpointRecord)]
    records = [CheckpointRecord(step, 0.0, 0, 0.0, None, loss) for step, loss in zip(steps, held_out, strict=True)]
    table = pa.table({name: pa.array([getattr(record, name) for record in records]) for name in names})
    write_table(build.folder, HELD_OUT_TABLE, table)


FALLING = [3.0 - 0.2 * step for step in range(STEPS)]
HELD_OUT = [3.1, 2.9, 2.7, 2.5, 2.3, 2.1, 2.0]


def complete_training(
    tmp_path: Path, dataset: Artifact, losses: list[float], held_out_losses: list[float | None], **proxy: Any
) -> tuple[Product, Reports]:
    reports = Reports()
    build = build_of(tmp_path, dataset, reports, **proxy)
    write_training(build, losses, held_out_losses)
    return train(build), reports


def test_facts_and_files_of_a_complete_training(tmp_path: Path, dataset: Artifact) -> None:
    """Checkpoints every 5 steps and at the ends of epochs of 3 steps, and step 0."""
    product, reports = complete_training(tmp_path, dataset, FALLING, [*HELD_OUT])
    facts = product.facts
    assert isinstance(facts, CheckpointsFacts)
    assert facts.steps == [0, 3, 5, 6, 9, 10, 12]
    assert (facts.training_loss_first, facts.training_loss_last) == (FALLING[0], FALLING[-1])
    assert (facts.held_out_loss_first, facts.held_out_loss_last) == (3.1, 2.0)
    stored = {path.relative_to(tmp_path / "checkpoints").as_posix() for path in tmp_path.glob("checkpoints/**/*.*")}
    assert {record.path for record in product.files} == {path for path in stored if "." in path}
    assert reports.warnings == []


def test_counts_add_up_to_the_rows_of_the_dataset(tmp_path: Path, dataset: Artifact) -> None:
    counts = complete_training(tmp_path, dataset, FALLING, [*HELD_OUT])[0].counts
    assert counts == Counts(100, 60, {"no_target_tokens": 7, "non_finite": 3, "not_sampled": 30})
    assert counts.read == counts.kept + sum(counts.rejected.values())


def test_without_a_sample_every_row_of_the_pool_is_trained_on(tmp_path: Path, dataset: Artifact) -> None:
    """90 rows in batches of 20 for 3 epochs: 12 steps."""
    held_out = [3.1, 2.9, 2.7, 2.5, 2.3]
    changes = {"train_examples": None, "epochs": 3, "checkpoints": {"steps": 3}}
    counts = complete_training(tmp_path, dataset, FALLING, [*held_out], **changes)[0].counts
    assert counts == Counts(100, 90, {"no_target_tokens": 7, "non_finite": 3})


@pytest.mark.parametrize(
    ("losses", "warned"),
    [
        (FALLING, False),
        (FALLING[::-1], True),
        ([2.0] * STEPS, True),
        ([*FALLING[:-1], float("nan")], True),
        ([3.0, *[5.0] * (STEPS - 2), 2.9], False),
    ],
)
def test_a_loss_that_does_not_fall_is_reported(
    tmp_path: Path, dataset: Artifact, losses: list[float], warned: bool
) -> None:
    assert bool(complete_training(tmp_path, dataset, losses, [*HELD_OUT])[1].warnings) == warned


def test_without_held_out_rows_there_is_no_held_out_loss(tmp_path: Path, dataset: Artifact) -> None:
    facts = complete_training(tmp_path, dataset, FALLING, [None] * 7)[0].facts
    assert isinstance(facts, CheckpointsFacts)
    assert (facts.held_out_loss_first, facts.held_out_loss_last) == (None, None)


def test_threads_and_gpus_are_resolved_for_the_cluster(tmp_path: Path) -> None:
    """On this machine workers share the cores; elsewhere each has one thread unless the job states more."""
    elsewhere = Cluster(local=False, nodes=3, cpus=24, gpus=3, cores=2)
    two = stage_config(tmp_path, resources={"train": {"workers": 2, "strategy": "fsdp"}})
    assert execution(two, THIS_MACHINE).threads == THIS_MACHINE.cores // 2
    assert (execution(two, elsewhere).threads, execution(two, elsewhere).gpus) == (1, 1.0)
    assert execution(two, THIS_MACHINE).gpus == 0
    assert execution(two, elsewhere).strategy == "fsdp"
    four = stage_config(tmp_path, resources={"train": {"threads": 4, "gpus": 0}})
    assert (execution(four, elsewhere).threads, execution(four, elsewhere).gpus) == (4, 0.0)


def test_all_workers_are_requested_at_once(tmp_path: Path, dataset: Artifact) -> None:
    request = resources(build_of(tmp_path, dataset))
    assert (request.workers, request.gpus) == (2, 0)
