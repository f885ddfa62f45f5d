"""Costs of building artifacts: FLOPs, seconds and money. What is not known is None, never 0."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from s2l_ray.artifacts.facts import CheckpointsFacts, DatasetFacts, TargetFacts, TrajectoriesFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import KINDS_WITH_TEXT, TRAINING_TABLE, step_name
from s2l_ray.config.sections import Prices
from s2l_ray.pipeline.plan import Plan

# the kinds that are built for a selection alone; the dataset is needed without one, too
SELECTION_KINDS = ("embeddings", "task", "checkpoints", "trajectories", "clusters", "subset")
# FLOPs for a parameter and token: of the forward pass, of both passes, and of both without gradients of the weights
FORWARD, TRAINING, ADAPTERS = 2, 6, 4
WEIGHT_BYTES = 4
# the section of `resources` of each kind; a kind without one runs on one worker
RESOURCE_SECTIONS = {
    **dict.fromkeys(KINDS_WITH_TEXT, "prepare"),
    "embeddings": "embed",
    "checkpoints": "train",
    "target": "train",
    "trajectories": "score",
    "evaluation": "evaluate",
}


@dataclass(frozen=True)
class Cost:
    """Cost of one or several artifacts; None is not known.

    flops: of the models, without k-means and sampling. seconds: from the start to the manifest, of the last attempt of
    a stage that was resumed. money: in the currency of `prices`.
    """

    flops: float | None
    seconds: float | None
    money: float | None


def selection_cost(planned: Plan, prices: Prices) -> Cost:
    """Cost of everything that the arm's subset needs beyond the dataset; 0 for an arm without a subset."""
    kinds = [kind for kind in SELECTION_KINDS if kind in planned] if "subset" in planned else []
    return total_cost(artifact_cost(planned.artifact(kind), prices) for kind in kinds)


def artifact_cost(artifact: Artifact | None, prices: Prices) -> Cost:
    """Cost of one artifact; not known where it is not complete, or was computed elsewhere."""
    if artifact is None:
        return Cost(None, None, None)
    seconds = artifact.manifest.timings.get("seconds")
    if seconds is None or _is_imported(artifact):
        return Cost(None, None, None)
    return Cost(_flops(artifact), seconds, _money(artifact, seconds, prices))


def _is_imported(artifact: Artifact) -> bool:
    """Whether losses or checkpoints were computed elsewhere, at a cost that is not known."""
    kind, inputs = artifact.manifest.kind, artifact.manifest.inputs
    return (kind == "checkpoints" and not inputs) or (kind == "trajectories" and "checkpoints" not in inputs)


def total_cost(costs: Iterable[Cost]) -> Cost:
    """The sum; None where any part is not known."""
    parts = list(costs)
    return Cost(*(_sum(getattr(part, name) for part in parts) for name in ("flops", "seconds", "money")))


def mean_cost(costs: Sequence[Cost]) -> Cost:
    """The cost of one seed on average; None where that of any seed is not known."""
    total = total_cost(costs)
    each = (None if value is None else value / len(costs) for value in (total.flops, total.seconds, total.money))
    return Cost(*each)


def _sum(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else float(sum(value for value in known if value is not None))


def _flops(artifact: Artifact) -> float | None:
    """FLOPs a token: 2 N of a forward pass, 6 N of a training step, 4 N with adapters; N are all stored parameters."""
    facts = artifact.manifest.facts
    if isinstance(facts, CheckpointsFacts):
        tokens = sum(artifact.read_file(TRAINING_TABLE, ["tokens"])["tokens"].to_pylist())
        return float(TRAINING * parameters(artifact, facts.steps[0]) * tokens)
    if isinstance(facts, TrajectoriesFacts):
        checkpoints, tokens = artifact.input("checkpoints"), artifact.input("dataset").facts(DatasetFacts).tokens
        size = parameters(checkpoints, checkpoints.facts(CheckpointsFacts).steps[0])
        return float(FORWARD * size * tokens * len(facts.steps))
    if isinstance(facts, TargetFacts):
        adapted = artifact.manifest.identity.get("target", {}).get("lora") is not None
        return float((ADAPTERS if adapted else TRAINING) * parameters(artifact, facts.checkpoint.step) * facts.tokens)
    return None if artifact.manifest.kind == "embeddings" else 0.0


def parameters(artifact: Artifact, step: int) -> int:
    """Parameters of the model of one checkpoint, by the sizes of its files of float32 weights."""
    files = (one for one in artifact.files(f"{step_name(step)}/") if one.path.endswith(".safetensors"))
    return sum(one.bytes for one in files) // WEIGHT_BYTES


def price(prices: Prices, seconds: float | None, workers: int | None, gpus: float | None, threads: int) -> float | None:
    """The price of the GPUs of all workers or, without any, of their CPU threads."""
    hour = prices.gpu_hour if gpus else prices.cpu_hour
    if seconds is None or workers is None or gpus is None or hour is None:
        return None
    return hour * workers * (gpus or threads) * seconds / 3600


def _money(artifact: Artifact, seconds: float, prices: Prices) -> float | None:
    settings = artifact.manifest.execution.settings
    gpus, threads = getattr(settings, "gpus", 0.0), getattr(settings, "threads", 1)
    return price(prices, seconds, _workers(artifact), gpus, threads)


def _workers(artifact: Artifact) -> int | None:
    """Workers of a stage; None where it was resumed and the job left the number to the cluster (`auto`, or a range)."""
    manifest = artifact.manifest
    known = manifest.timings.get("workers", getattr(manifest.execution.settings, "workers", None))
    if known is not None:
        return int(known)
    section = RESOURCE_SECTIONS.get(manifest.kind)
    wanted = manifest.config["resources"][section]["workers"] if section is not None else 1
    return wanted if isinstance(wanted, int) else None
