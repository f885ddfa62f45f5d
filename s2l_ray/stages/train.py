"""train: dataset, or task -> checkpoints of the proxy model.

Writes a folder per checkpoint (weights, tokenizer, config), `training.parquet` with one row per step, and
`held_out.parquet` with the loss on held-out rows at every checkpoint. Torch is imported by the workers only.
"""

import numpy as np

from s2l_ray.artifacts.execution import TrainExecution
from s2l_ray.artifacts.facts import CheckpointsFacts, Counts, DatasetFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import HELD_OUT_TABLE, TRAINING_TABLE
from s2l_ray.artifacts.tables import FileRecord, read_table
from s2l_ray.config.identity import local_folder
from s2l_ray.config.sections import Config
from s2l_ray.core.training.records import CheckpointRecord
from s2l_ray.core.training.schedule import CheckpointGrid, FinetuneSettings
from s2l_ray.runtime.contracts import Cluster, ResourceRequest
from s2l_ray.runtime.training.job import TrainJob, TrainWorkers
from s2l_ray.stages.build import Build, Product, cpus_per_actor

# the first and the last 1/CURVE_SHARE of the steps are compared to decide whether the proxy learned
CURVE_SHARE = 20

TrainBuild = Build[TrainExecution]


def execution(config: Config, cluster: Cluster) -> TrainExecution:
    """Resolve workers, GPUs, threads and micro-batch, on which rounding depends."""
    wanted = config.resources.train
    return TrainExecution(
        workers=wanted.workers,
        gpus=cluster.gpus_each(wanted.gpus, "resources.train.gpus"),
        threads=wanted.threads or (max(1, cluster.cores // wanted.workers) if cluster.local else 1),
        micro_batch=wanted.micro_batch,
        strategy=wanted.strategy,
        attention=wanted.attention,
        gradient_checkpointing=wanted.gradient_checkpointing,
    )


def resources(build: TrainBuild) -> ResourceRequest:
    """All workers at once: none starts without the others."""
    settings = build.execution
    hint = "lower resources.train.workers" + (" or set resources.train.gpus: 0" if settings.gpus else "")
    return ResourceRequest("train", hint, settings.workers, cpus_per_actor(build.cluster), settings.gpus)


def train(build: TrainBuild) -> Product:
    from s2l_ray.runtime.training.trainer import train_proxy

    settings, limits = build.execution, build.config.resources
    workers = TrainWorkers(
        settings.workers, cpus_per_actor(build.cluster), settings.gpus, limits.train.retries, limits.stall_minutes
    )
    result = train_proxy(make_job(build), workers, build.report)
    checkpoints = tuple(stored.record for stored in result.checkpoints)
    facts = _facts(build.folder, result.files, checkpoints)
    first, last = facts.training_loss_first, facts.training_loss_last
    if first is not None and last is not None and not last < first:
        build.warn(
            f"the proxy did not learn: training loss {first:.3f} at the start, {last:.3f} at the end; its trajectories "
            "carry little information. Change proxy.learning_rate or proxy.epochs"
        )
    return Product(result.files, _counts(build), facts)


def rows_to_train_on(build: TrainBuild) -> Artifact:
    """The pool, or the rows of a target task."""
    return build.inputs["task" if build.config.proxy.train_on is not None else "dataset"]


def make_job(build: TrainBuild) -> TrainJob:
    proxy, execution, dataset = build.config.proxy, build.execution, rows_to_train_on(build)
    facts, model = dataset.facts(DatasetFacts), proxy.model
    assert model is not None
    if isinstance(model, str):
        model = str(local_folder(build.config, model, "proxy.model") or model)
    settings = FinetuneSettings(
        epochs=proxy.epochs,
        batch_size=proxy.batch_size,
        learning_rate=proxy.learning_rate,
        warmup_ratio=proxy.warmup_ratio,
        weight_decay=proxy.weight_decay,
        max_grad_norm=proxy.max_grad_norm,
        precision=proxy.precision,
        grid=CheckpointGrid(**proxy.checkpoints.model_dump()),
        seed=proxy.seed,
        micro_batch=execution.micro_batch,
        gradient_checkpointing=execution.gradient_checkpointing,
        shard=execution.strategy == "fsdp",
        attention=execution.attention,
    )
    return TrainJob(
        output=build.folder,
        dataset=dataset.uri,
        rows_ok=facts.ok,
        model=model,
        settings=settings,
        train_examples=proxy.train_examples,
        revision=proxy.revision,
        vocab_size=facts.vocab_size,
        longest=facts.longest,
        threads=execution.threads,
        save_minutes=build.config.resources.train.save_minutes,
    )


def _counts(build: TrainBuild) -> Counts:
    """Rows of the pool or of the task, and the rows the proxy was trained on."""
    proxy, facts = build.config.proxy, rows_to_train_on(build).facts(DatasetFacts)
    others = {status: rows for status, rows in facts.statuses.items() if status != "ok"}
    kept = proxy.train_examples or facts.ok
    rejected = {**others, "not_sampled": facts.ok - kept}
    return Counts(sum(facts.statuses.values()), kept, {reason: rows for reason, rows in rejected.items() if rows})


def _facts(folder: str, files: list[FileRecord], checkpoints: tuple[CheckpointRecord, ...]) -> CheckpointsFacts:
    """Loss at the start and at the end of training, on training rows and on held-out rows."""
    by_path = {record.path: record for record in files}
    loss_S = read_table(folder, by_path[TRAINING_TABLE], ["loss"])["loss"].to_numpy()
    window = max(1, len(loss_S) // CURVE_SHARE)
    held_out = read_table(folder, by_path[HELD_OUT_TABLE])["held_out_loss"].drop_null().to_pylist()
    return CheckpointsFacts(
        checkpoints=checkpoints,
        training_loss_first=float(np.mean(loss_S[:window])),
        training_loss_last=float(np.mean(loss_S[-window:])),
        held_out_loss_first=held_out[0] if held_out else None,
        held_out_loss_last=held_out[-1] if held_out else None,
    )
