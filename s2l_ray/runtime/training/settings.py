"""Settings of a training from the sections of the job, for the proxy and for a target model."""

from s2l_ray.artifacts.execution import TrainExecution
from s2l_ray.config.sections import Config, Finetuning
from s2l_ray.core.training.schedule import CheckpointGrid, FinetuneSettings
from s2l_ray.runtime.contracts import Cluster, ResourceRequest
from s2l_ray.runtime.training.job import TrainWorkers


def resolve_training(config: Config, cluster: Cluster) -> TrainExecution:
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


def training_request(execution: TrainExecution, cpus: float) -> ResourceRequest:
    """All workers at once, each with `cpus` of Ray's: none starts without the others."""
    hint = "lower resources.train.workers" + (" or set resources.train.gpus: 0" if execution.gpus else "")
    return ResourceRequest("train", hint, execution.workers, cpus, execution.gpus)


def training_workers(kind: str, config: Config, execution: TrainExecution, cpus: float) -> TrainWorkers:
    """The workers of a training that builds an artifact of this kind."""
    limits = config.resources
    return TrainWorkers(execution.workers, cpus, execution.gpus, limits.train.retries, limits.stall_minutes, kind=kind)


def finetune_settings(
    section: Finetuning, execution: TrainExecution, grid: CheckpointGrid, steps: int | None = None
) -> FinetuneSettings:
    """Hyperparameters of a section, which may be stopped or extended to `steps`, and how they are executed."""
    return FinetuneSettings(
        epochs=section.epochs,
        batch_size=section.batch_size,
        learning_rate=section.learning_rate,
        warmup_ratio=section.warmup_ratio,
        weight_decay=section.weight_decay,
        max_grad_norm=section.max_grad_norm,
        precision=section.precision,
        grid=grid,
        seed=section.seed,
        micro_batch=execution.micro_batch,
        gradient_checkpointing=execution.gradient_checkpointing,
        shard=execution.strategy == "fsdp",
        attention=execution.attention,
        steps=steps,
    )
