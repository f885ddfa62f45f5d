"""Costs of building artifacts: FLOPs, seconds and money. What is not known is None, never 0."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from s2l_ray.artifacts.facts import CheckpointsFacts, DatasetFacts, TargetFacts, TrajectoriesFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import TRAINING_TABLE, step_name
from s2l_ray.config.sections import Prices
from s2l_ray.pipeline.plan import Plan

# the kinds that are built for a selection alone; the dataset is needed without one, too
SELECTION_KINDS = ("embeddings", "task", "checkpoints", "trajectories", "clusters", "subset")
# FLOPs for a parameter and token: of the forward pass, of both passes, and of both without gradients of the weights
FORWARD, TRAINING, ADAPTERS = 2, 6, 4
WEIGHT_BYTES = 4
# sections of `resources` whose number of workers may change midway, so that no execution record has it
RESOURCES = {
    **dict.fromkeys(("dataset", "task", "target_dataset"), "prepare"),
    "embeddings": "embed",
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


def _money(artifact: Artifact, seconds: float, prices: Prices) -> float | None:
    """The price of a stage's workers for its time: of their GPUs or, without any, of their CPU threads."""
    settings = artifact.manifest.execution.settings
    gpus = getattr(settings, "gpus", 0.0)
    each = gpus or getattr(settings, "threads", 1)
    price, workers = prices.gpu_hour if gpus else prices.cpu_hour, _workers(artifact)
    return None if price is None or workers is None else workers * each * price * seconds / 3600


def _workers(artifact: Artifact) -> int | None:
    """Workers of a stage; None where it was resumed and the job left the number to the cluster (`auto`, or a range)."""
    if "workers" in artifact.manifest.timings:
        return int(artifact.manifest.timings["workers"])
    section = RESOURCES.get(artifact.manifest.kind)
    if section is None:
        return int(getattr(artifact.manifest.execution.settings, "workers", 1))
    wanted = artifact.manifest.config["resources"][section]["workers"]
    return wanted if isinstance(wanted, int) else None
