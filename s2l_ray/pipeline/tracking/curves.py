"""Points of the curves of a run, from progress records and from complete artifacts.

A complete training has one point for each optimizer step and each checkpoint, from its tables, whatever interrupted it.
While a pass runs, its rates and values are points of the axis `progress/KIND/PASS`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from s2l_ray.artifacts.execution import TrainExecution
from s2l_ray.artifacts.facts import EvaluationFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import HELD_OUT_TABLE, TRAINING_TABLE
from s2l_ray.config.sections import Prices
from s2l_ray.core.accelerators import PEAK_FLOPS
from s2l_ray.pipeline.costs import artifact_cost
from s2l_ray.runtime.contracts import Progress

# the section of the job that trains each kind
SECTIONS = {"checkpoints": "proxy", "target": "target"}
COPIED_COLUMNS = ("loss", "learning_rate", "gradient_norm")


@dataclass(frozen=True)
class Point:
    """Values at one step of an axis, which is the kind of an artifact, or one pass of its stage."""

    axis: str
    step: int
    values: dict[str, float]

    def named(self) -> dict[str, float]:
        """The values by full name, such as `checkpoints/loss`."""
        return {f"{self.axis}/{name}": value for name, value in self.values.items()}


def progress_points(progress: Progress) -> list[Point]:
    """The rates and values of a position, at the units done."""
    values = {**progress.values, **{f"{name}_per_second": rate for name, rate in progress.rates.items()}}
    axis = f"progress/{progress.kind}/{progress.unit.replace(' ', '_')}"
    return [Point(axis, int(progress.done), values)] if values and progress.total else []


def artifact_points(artifact: Artifact, accelerator: str) -> list[Point]:
    """Results at step 0 and, of a training, its curve in order of the steps. accelerator: Ray's name of the GPU."""
    kind, curve = artifact.manifest.kind, list[Point]()
    if artifact.files(TRAINING_TABLE):
        steps, held_out = _training_steps(artifact, accelerator), _held_out_losses(artifact)
        curve = sorted((Point(kind, step, values) for step, values in [*steps, *held_out]), key=lambda one: one.step)
    return [Point(kind, 0, _results(artifact)), *curve]


def _results(artifact: Artifact) -> dict[str, float]:
    manifest = artifact.manifest
    results = {"seconds": manifest.timings.get("seconds"), "rows": float(manifest.counts.kept)}
    if isinstance(facts := manifest.facts, EvaluationFacts):
        results |= {"macro_loss": facts.macro_loss, "micro_loss": facts.micro_loss}
        results |= {f"score/{name}": task.score for name, task in facts.tasks.items()}
    return {name: value for name, value in results.items() if value is not None}


def _training_steps(artifact: Artifact, accelerator: str) -> Iterator[tuple[int, dict[str, float]]]:
    """Loss, learning rate, norm of the gradients, rates and, on a known GPU, the utilisation at every step."""
    rows = artifact.read_file(TRAINING_TABLE).to_pylist()
    share = _share_of_peak(artifact, accelerator, sum(row["tokens"] for row in rows))
    for row in rows:
        values = {name: row[name] for name in COPIED_COLUMNS}
        values["rows_per_second"] = row["examples_seen"] / row["step"] / row["seconds"]
        values["tokens_per_second"] = row["tokens"] / row["seconds"]
        if share is not None:
            values["mfu"] = share * values["tokens_per_second"]
        yield row["step"], values


def _share_of_peak(artifact: Artifact, accelerator: str, tokens: int) -> float | None:
    """Share of the peak FLOP/s of all GPUs that one token per second takes (MFU, arXiv 2204.02311).

    None on CPUs, and on GPUs whose peak is not known.
    """
    execution, peak = artifact.manifest.execution.settings, _peak(artifact, accelerator)
    if not isinstance(execution, TrainExecution) or not execution.gpus or peak is None:
        return None
    flops = artifact_cost(artifact, Prices()).flops
    return flops / tokens / (execution.workers * execution.gpus * peak) if flops and tokens else None


def _peak(artifact: Artifact, accelerator: str) -> float | None:
    """FLOP/s of one GPU as the job states them, or in bfloat16 from its data sheet."""
    job = artifact.manifest.config
    if stated := job.get("estimate", {}).get("gpu"):
        return float(stated["tflops"]) * 1e12
    precision = job[SECTIONS[artifact.manifest.kind]]["precision"]
    return PEAK_FLOPS.get(accelerator) if precision == "bfloat16" else None


def _held_out_losses(artifact: Artifact) -> Iterator[tuple[int, dict[str, float]]]:
    rows = artifact.read_file(HELD_OUT_TABLE, ["step", "held_out_loss"]).to_pylist()
    return ((row["step"], {"held_out_loss": row["held_out_loss"]}) for row in rows if row["held_out_loss"] is not None)
