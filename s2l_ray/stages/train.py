"""train: the dataset -> checkpoints of the proxy.

In: a dataset. Out: one folder a checkpoint of the grid (weights, tokenizer, config), `training.parquet`, one row a
step, and `held_out.parquet`, the loss on rows kept out of training at every checkpoint. The same call goes on from the
last saved state; a checkpoint that is there is not written again.

Torch is imported by what this calls and not by the driver before it.
"""

from dataclasses import asdict
from typing import Any

import numpy as np

from s2l_ray.artifacts.tables import FileRecord, read_table
from s2l_ray.config.identity import local_folder
from s2l_ray.config.sections import Config
from s2l_ray.runtime.contracts import Cluster, Progress, ResourceRequest
from s2l_ray.runtime.training.job import TrainProgress, TrainWorkers
from s2l_ray.stages.build import Build, Product, Stage, cpus_each

KIND = "checkpoints"
CURVE = 20
"""The first and last 1/CURVE of the steps are compared to say whether the proxy learned."""


def execution(config: Config, cluster: Cluster) -> dict[str, Any]:
    """How the proxy is trained; the number of workers and the micro-batch change the rounding, so they stay."""
    wanted = config.resources.train
    return {
        **wanted.model_dump(exclude={"save_minutes", "retries"}),
        "gpus": cluster.gpus_each(wanted.gpus, "resources.train.gpus"),
        "threads": wanted.threads or (max(1, cluster.cores // wanted.workers) if cluster.local else 1),
    }


def needs(build: Build) -> ResourceRequest:
    """Room for all workers: none begins without the others."""
    begun = build.execution
    remedy = "lower resources.train.workers" + (" or set resources.train.gpus: 0" if begun["gpus"] else "")
    return ResourceRequest("train", remedy, begun["workers"], cpus_each(build.cluster), begun["gpus"])


def train(build: Build) -> Stage:
    """Train the proxy, or what is left of it."""
    from s2l_ray.runtime.training.trainer import train_proxy

    begun, cpus = build.execution, cpus_each(build.cluster)
    resources = build.config.resources
    workers = TrainWorkers(begun["workers"], cpus, begun["gpus"], resources.train.retries, resources.stall_minutes)
    records: list[TrainProgress] = []
    result = train_proxy(make_job(build), workers, records.append)
    yield from map(_progress, records)
    checkpoints = [asdict(one.record) for one in result.checkpoints]
    learned, warning = _learned(build.folder, result.files)
    if warning:
        yield Progress(KIND, warning=warning)
    facts = {"steps": [one["step"] for one in checkpoints], "checkpoints": checkpoints, **learned}
    counts = {"read": build.inputs["dataset"].manifest.counts["kept"], "steps": checkpoints[-1]["step"]}
    return Product(result.files, counts, facts)


def _progress(now: TrainProgress) -> Progress:
    if now.note:
        return Progress(KIND, warning=now.note)
    rates = {"rows": now.examples_per_second, "tokens": now.tokens_per_second}
    return Progress(KIND, now.step, now.total_steps, unit="steps", rates=rates, values={"loss": now.loss})


def make_job(build: Build) -> Any:
    """The training in plain values."""
    from s2l_ray.core.training.schedule import CheckpointGrid
    from s2l_ray.core.training.settings import FinetuneSettings
    from s2l_ray.runtime.training.job import TrainJob

    proxy, begun, dataset = build.config.proxy, build.execution, build.inputs["dataset"]
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
        micro_batch=begun["micro_batch"],
        gradient_checkpointing=begun["gradient_checkpointing"],
        shard=begun["strategy"] == "fsdp",
        attention=begun["attention"],
    )
    return TrainJob(
        output=build.folder,
        dataset=dataset.uri,
        rows_ok=dataset.manifest.facts["ok"],
        model=_model(build.config),
        settings=settings,
        held_out=proxy.held_out,
        train_examples=proxy.train_examples,
        revision=proxy.revision,
        vocab_size=dataset.manifest.facts["vocab_size"],
        threads=begun["threads"],
        save_minutes=build.config.resources.train.save_minutes,
    )


def _model(config: Config) -> str | dict[str, Any]:
    model = config.proxy.model
    return model if isinstance(model, dict) else str(local_folder(config, model, "proxy.model") or model)


def _learned(folder: str, files: list[FileRecord]) -> tuple[dict[str, float], str]:
    """Loss at the start and the end of training, and a warning where it did not fall."""
    by_path = {record.path: record for record in files}
    loss_S = read_table(folder, by_path["training.parquet"], ["loss"])["loss"].to_numpy()
    window = max(1, len(loss_S) // CURVE)
    first, last = float(np.mean(loss_S[:window])), float(np.mean(loss_S[-window:]))
    facts = {"training_loss_first": first, "training_loss_last": last}
    held_out = read_table(folder, by_path["held_out.parquet"])["held_out_loss"].drop_null().to_pylist()
    if held_out:
        facts |= {"held_out_loss_first": held_out[0], "held_out_loss_last": held_out[-1]}
    warning = ""
    if not last < first:
        warning = (
            f"the proxy did not learn: training loss {first:.3f} at the start, {last:.3f} at the end; trajectories of "
            "such a proxy say little. Change proxy.learning_rate or proxy.epochs"
        )
    return facts, warning
