"""train: dataset, or task -> checkpoints of the proxy model; finetune: dataset, subset -> target.

Both write a folder per checkpoint (weights, tokenizer, config), of a target only the last, `training.parquet` with one
row per step, and `held_out.parquet` with the loss on held-out rows at every checkpoint. Only the workers import torch.
"""

from s2l_ray.artifacts.execution import TrainExecution
from s2l_ray.artifacts.facts import CheckpointsFacts, Counts, DatasetFacts, TargetFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.config.identity import local_folder
from s2l_ray.config.sections import Config, Target, TargetSteps
from s2l_ray.config.subsections import Lora
from s2l_ray.core.training.schedule import CheckpointGrid, LoraSettings, steps_per_epoch
from s2l_ray.errors import ConfigError
from s2l_ray.runtime.contracts import Cluster, ResourceRequest
from s2l_ray.runtime.training.job import TrainJob
from s2l_ray.runtime.training.settings import finetune_settings, resolve_training, training_request, training_workers
from s2l_ray.runtime.training.store import read_curve
from s2l_ray.stages.build import Build, Product, cpus_per_actor, target_rows

# the last step alone, or step 0 of a model that is not trained
LAST = CheckpointGrid(fraction=1.0, initial=False)

TrainBuild = Build[TrainExecution]


def execution(config: Config, cluster: Cluster) -> TrainExecution:
    return resolve_training(config, cluster)


def resources(build: TrainBuild) -> ResourceRequest:
    return training_request(build.execution, cpus_per_actor(build.cluster))


def train(build: TrainBuild) -> Product:
    from s2l_ray.runtime.training.trainer import run_training

    workers = training_workers("checkpoints", build.config, build.execution, cpus_per_actor(build.cluster))
    result = run_training(make_job(build), workers, build.report)
    checkpoints = tuple(stored.record for stored in result.checkpoints)
    curve = read_curve(build.folder, result.files)
    facts = CheckpointsFacts(
        checkpoints=checkpoints,
        training_loss_first=curve.training_loss_first,
        training_loss_last=curve.training_loss_last,
        held_out_loss_first=curve.held_out_loss_first,
        held_out_loss_last=curve.held_out_loss_last,
    )
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
    grid = CheckpointGrid(**proxy.checkpoints.model_dump())
    return TrainJob(
        output=build.folder,
        dataset=dataset.uri,
        rows_ok=facts.ok,
        model=model,
        settings=finetune_settings(proxy, execution, grid),
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


def finetune(build: TrainBuild) -> Product:
    from s2l_ray.runtime.training.trainer import run_training

    job = make_target_job(build)
    workers = training_workers("target", build.config, build.execution, cpus_per_actor(build.cluster))
    result = run_training(job, workers, build.report)
    (checkpoint,) = result.checkpoints
    curve = read_curve(build.folder, result.files)
    trained = job.train_rows() if job.total_steps() else 0
    facts = TargetFacts(
        checkpoint=checkpoint.record,
        rows=build.config.target.rows,
        train_rows=trained,
        tokens=curve.tokens,
        training_loss_first=curve.training_loss_first,
        training_loss_last=curve.training_loss_last,
        held_out_loss=checkpoint.record.held_out_loss,
    )
    pool = target_rows(build.inputs).facts(DatasetFacts).ok
    left_out = {"not_trained_on": pool - trained} if pool > trained else {}
    return Product(result.files, Counts(pool, trained, left_out), facts)


def make_target_job(build: TrainBuild) -> TrainJob:
    """The training of the target. Raises `ConfigError` for a subset that is smaller than a batch."""
    target, dataset, subset = build.config.target, target_rows(build.inputs), build.inputs.get("subset")
    facts, model = dataset.facts(DatasetFacts), target.model
    assert model is not None
    if isinstance(model, str):
        model = str(local_folder(build.config, model, "target.model") or model)
    train_rows = facts.ok if subset is None else subset.manifest.counts.kept
    steps = total_steps(target, facts.ok, train_rows)
    return TrainJob(
        output=build.folder,
        dataset=dataset.uri,
        rows_ok=facts.ok,
        model=model,
        settings=finetune_settings(target, build.execution, LAST, steps),
        subset=None if subset is None else subset.uri,
        train_examples=None if subset is None else train_rows,
        revision=target.revision,
        vocab_size=facts.vocab_size,
        longest=facts.longest,
        threads=build.execution.threads,
        save_minutes=build.config.resources.train.save_minutes,
        lora=None if target.lora is None else lora_settings(target.lora),
    )


def lora_settings(lora: Lora) -> LoraSettings:
    return LoraSettings(lora.r, lora.alpha, tuple(lora.target_modules))


def total_steps(target: Target, pool_rows: int, train_rows: int) -> int:
    """Optimizer steps of the target's training; 0 for a model that is not trained."""
    smaller = min(pool_rows, train_rows)
    if target.batch_size > smaller:
        raise ConfigError(f"target.batch_size: {target.batch_size} exceeds the {smaller} rows to train on; lower it")
    if target.rows == "none":
        return 0
    if isinstance(target.compute, TargetSteps):
        return target.compute.steps
    rows = pool_rows if target.compute == "same_steps" else train_rows
    return target.epochs * steps_per_epoch(rows, target.batch_size)
