"""The jobs of a probe: the stages of a job, with its models and settings, over few rows and few steps."""

from dataclasses import dataclass

from s2l_ray.config.sections import Checkpoints, Config, Finetuning, Source, TargetSteps
from s2l_ray.core.model_shape import ModelShape
from s2l_ray.pipeline.costs import TRAINING
from s2l_ray.pipeline.estimates.models import model_shape

# rows from which the lengths and the speed of preparing are measured, and those of all other stages
PREPARED_ROWS, ROWS = 2000, 200
SHARD_ROWS = 100
# FLOPs of a training that is long enough to be measured on two cores, and of one that takes too long without a GPU
WANTED_FLOPS, MOST_FLOPS = 3e11, 1e13
MOST_EPOCHS, QUESTIONS = 10, 8
TRAINING_BYTES = 16


@dataclass(frozen=True)
class ProbeLimits:
    """Limits of the device: bytes of memory for a training. gpus: whether it has any, so that nothing is limited."""

    memory_bytes: int
    gpus: bool


def too_large(model: ModelShape | None, row_tokens: float, limits: ProbeLimits) -> str:
    """The reason not to measure an epoch over the rows of a probe; empty if none, and for a model of unknown size."""
    if model is None or limits.gpus:
        return ""
    if model.parameters * TRAINING_BYTES > limits.memory_bytes:
        return f"{model.parameters / 1e9:.2g} billion parameters do not fit in memory"
    flops = _epoch_flops(model, row_tokens)
    return f"a training on {ROWS} rows takes {flops:.0e} FLOPs without a GPU" if flops > MOST_FLOPS else ""


def prepare_job(job: Config, root: str, files: tuple[str, ...]) -> Config:
    """The job that prepares the sampled rows. files: of the sources with any, an empty name for the others."""
    sources = [_sampled(source, file) for source, file in zip(job.data.sources, files, strict=True) if file]
    data = job.data.model_copy(update={"sources": sources, "limit": None, "shard_size": SHARD_ROWS})
    return job.model_copy(update={"root": root, "run": "probe", "track": [], "data": data})


def measured_job(job: Config, prepared: Config, tokenizer: str, row_tokens: float) -> Config:
    """The job of all other stages. prepared: with the files of fewer rows. tokenizer: in place of one to be trained."""
    data = prepared.data.model_copy(update={"tokenizer": tokenizer})
    proxy_shape = model_shape(job, job.proxy.model, "proxy.model")
    target_shape = model_shape(job, job.target.model, "target.model")
    epochs = _epochs(proxy_shape, row_tokens)
    proxy = job.proxy.model_copy(
        update={
            "epochs": epochs,
            "checkpoints": Checkpoints(fraction=0.5),
            "train_examples": None,
            "batch_size": _batch(job.proxy),
            "train_on": job.proxy.train_on.model_copy(update={"rows": ROWS}) if job.proxy.train_on else None,
        }
    )
    batch = _batch(job.target)
    steps = max(4, _epochs(target_shape, row_tokens) * ROWS // batch)
    target = job.target.model_copy(update={"compute": TargetSteps(steps=steps), "batch_size": batch})
    unconstrained = {"budget": "50%", "shares": {}, "caps": {}, "keep": [], "drop": []}
    return prepared.model_copy(
        update={
            "data": data,
            "proxy": proxy,
            "target": target,
            "score": job.score.model_copy(update={"checkpoints": "all"}),
            "cluster": job.cluster.model_copy(update={"checkpoints": "trained"}),
            "select": job.select.model_copy(update=unconstrained),
            "evaluate": job.evaluate.model_copy(update={"limit": min(QUESTIONS, job.evaluate.limit or QUESTIONS)}),
        }
    )


def _sampled(source: Source, file: str) -> Source:
    """A source whose rows are in a file of JSON lines, and keep the name of their source."""
    name = source.source or {"name": (source.path or source.hub or "").rpartition("/")[2].partition(".")[0]}
    gone = dict.fromkeys(("hub", "config", "split", "revision", "rows"))
    return source.model_copy(update={**gone, "path": file, "source": name})


def _batch(section: Finetuning) -> int:
    return min(section.batch_size, ROWS // 4)


def _epochs(model: ModelShape | None, row_tokens: float) -> int:
    """Epochs that are long enough to be measured."""
    if model is None:
        return 1
    return max(1, min(MOST_EPOCHS, round(WANTED_FLOPS / _epoch_flops(model, row_tokens))))


def _epoch_flops(model: ModelShape, row_tokens: float) -> float:
    return TRAINING * model.parameters * ROWS * row_tokens
