"""Measurements of stages: of complete artifacts under the root of a job, and of a probe."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from s2l_ray import storage
from s2l_ray.artifacts.facts import EvaluationFacts
from s2l_ray.artifacts.fingerprint import canonical_json
from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.artifacts.schemas import KINDS_WITH_TEXT
from s2l_ray.config.sections import Config, Finetuning
from s2l_ray.errors import S2LError
from s2l_ray.pipeline.estimates.sizes import PoolSize, pool_of_artifact, sizes
from s2l_ray.pipeline.estimates.work import work_of

# artifacts of one kind that are opened at most, to find one of the same stage
MOST_OPENED = 20
# Seconds for each further unit of work of stages whose work on few rows is mostly overhead: a value compared in k-means
# (1,000,000 x 60 with K = 100, one thread, bench/results/clustering.json), and a row (bench/results/selection-*.json).
GROWTH = {"clusters": 5e-11, "subset": 1e-6}


@dataclass(frozen=True)
class Measurement:
    """Time and memory of one stage that ran.

    key: digest of what its speed depends on. amount: of work. fixed_seconds: of its start and end, whatever the amount.
    worker_seconds: in that work, of all `workers` together. alone_seconds: in work of one worker. threads: CPU threads
    of a worker. peak_bytes: most memory of a worker. rows, tokens: of the input. stored_bytes: of the artifact.
    """

    kind: str
    key: str
    amount: float
    fixed_seconds: float
    worker_seconds: float
    alone_seconds: float
    workers: int
    gpus: float
    threads: int
    peak_bytes: int
    rows: float
    tokens: float
    stored_bytes: int
    origin: str

    def seconds(self, amount: float, workers: int) -> float:
        """Seconds of a stage with another amount of work and another number of workers."""
        work = self.worker_seconds / workers + self.alone_seconds
        growth = GROWTH.get(self.kind)
        if growth is not None:
            return self.fixed_seconds + work + growth * max(0.0, amount - self.amount)
        return self.fixed_seconds + amount / self.amount * work


def rate_key(kind: str, config: Config) -> str:
    """Digest of the keys that decide how fast a stage of this kind is, besides the amount of its work."""
    return hashlib.sha256(canonical_json([kind, RATES[kind](config)]).encode()).hexdigest()[:12]


def measurement_of(artifact: Artifact, job: Config | None = None, origin: str = "") -> Measurement | None:
    """The measurement that a manifest holds; None for a stage that was resumed, or copied results of another.

    job: whose stage it measures, by default the job that built it.
    """
    manifest, timings = artifact.manifest, artifact.manifest.timings
    if "worker_seconds" not in timings or getattr(manifest.facts, "reused", None):
        return None
    try:
        built_by = Config.model_validate(manifest.config)
        work = work_of(manifest.kind, built_by, sizes(built_by, _pools(artifact), _questions(artifact)))
    except (ValidationError, S2LError, KeyError):
        return None  # of another version, or without one of its inputs
    workers = int(timings["workers"])
    busy = timings["worker_seconds"] / workers + timings["alone_seconds"]
    settings = manifest.execution.settings
    return Measurement(
        kind=manifest.kind,
        key=rate_key(manifest.kind, job or built_by),
        amount=work.amount or 1.0,
        fixed_seconds=max(0.0, timings["seconds"] - busy),
        worker_seconds=timings["worker_seconds"],
        alone_seconds=timings["alone_seconds"],
        workers=workers,
        gpus=float(getattr(settings, "gpus", 0.0)),
        threads=int(getattr(settings, "threads", 1)),
        peak_bytes=int(timings["peak_bytes"]),
        rows=work.rows or 0,
        tokens=work.tokens or 0,
        stored_bytes=sum(file.bytes for file in manifest.files),
        origin=origin or f"{manifest.kind}/{manifest.fingerprint}",
    )


def stored_measurements(root: str, kind: str) -> Iterator[Measurement]:
    """Measurements of the complete artifacts of a kind below a root, in the order of their names."""
    folder = storage.join(storage.absolute(root), kind)
    for name in storage.list_folders(folder)[:MOST_OPENED]:
        try:
            found = measurement_of(open_artifact(storage.join(folder, name)))
        except S2LError:
            continue  # incomplete, damaged, or of another version
        if found is not None:
            yield found


def _questions(artifact: Artifact) -> int | None:
    """Questions of all tasks of an evaluation."""
    facts = artifact.manifest.facts
    return sum(one.questions for one in facts.tasks.values()) if isinstance(facts, EvaluationFacts) else None


def _pools(artifact: Artifact) -> dict[str, PoolSize]:
    """The pools that an artifact was made from, or that it is."""
    if artifact.manifest.kind in KINDS_WITH_TEXT:
        return {artifact.manifest.kind: pool_of_artifact(artifact)}
    pools: dict[str, PoolSize] = {}
    for kind in artifact.manifest.inputs:
        pools |= _pools(artifact.input(kind))
    return pools


def _dataset(config: Config) -> dict[str, Any]:
    data = config.data
    sources = [(one.path, one.hub, one.config, one.split, one.format) for one in data.sources]
    return {"sources": sources, **data.model_dump(mode="json", include={"tokenizer", "max_length", "chat", "exclude"})}


def _task(config: Config) -> dict[str, Any]:
    return {"train_on": config.proxy.model_dump(mode="json", include={"train_on"}), "data": _rows(config)}


def _target_dataset(config: Config) -> dict[str, Any]:
    return {**_dataset(config), "tokenizer": config.target.tokenizer}


def _rows(config: Config) -> dict[str, Any]:
    return config.data.model_dump(mode="json", include={"tokenizer", "max_length"})


def _training(config: Config, section: Finetuning, *keys: str) -> dict[str, Any]:
    names = {"model", "precision", "batch_size", *keys}
    resources = config.resources.train.model_dump(mode="json", exclude={"save_minutes", "retries"})
    return {**section.model_dump(mode="json", include=names), **_rows(config), "resources": resources}


def _scoring(config: Config) -> dict[str, Any]:
    model = config.proxy.model_dump(mode="json", include={"model", "checkpoints_from"})
    score = config.score.model_dump(mode="json", include={"dtype", "statistics", "losses_from"})
    speed = config.resources.score.model_dump(include={"gpus", "threads", "tokens_per_batch", "attention"})
    return {**model, **score, **_rows(config), "resources": speed}


def _evaluation(config: Config) -> dict[str, Any]:
    model = config.target.model_dump(mode="json", include={"model"})
    evaluate = config.evaluate.model_dump(mode="json", exclude={"limit", "seed", "files"})
    speed = config.resources.evaluate.model_dump(exclude={"workers", "cache_gb"})
    return {**model, **evaluate, **_rows(config), "resources": speed}


RATES: dict[str, Callable[[Config], dict[str, Any]]] = {
    "dataset": _dataset,
    "task": _task,
    "target_dataset": _target_dataset,
    "embeddings": lambda config: {
        "embed": config.embed.model_dump(mode="json"),
        "resources": config.resources.embed.model_dump(exclude={"workers"}),
    },
    "checkpoints": lambda config: _training(config, config.proxy, "checkpoints_from", "train_on"),
    "trajectories": _scoring,
    "clusters": lambda config: {
        "features": config.cluster.features,
        "resources": config.resources.cluster.model_dump(),
    },
    "subset": lambda config: {"method": config.select.method},
    "target": lambda config: _training(config, config.target, "lora", "tokenizer"),
    "evaluation": _evaluation,
}
