"""Artifacts of every kind with made-up facts and files, written without Ray by the writers that the stages use."""

from s2l_ray import storage
from s2l_ray.artifacts.execution import (
    ClusterExecution,
    EmbedExecution,
    EvaluateExecution,
    Execution,
    PrepareExecution,
    ScoreExecution,
    SelectExecution,
    Settings,
    TrainExecution,
    write_execution,
)
from s2l_ray.artifacts.facts import (
    CheckpointsFacts,
    ClustersFacts,
    Counts,
    DatasetFacts,
    EmbeddingsFacts,
    EvaluationFacts,
    Facts,
    SkippedUnit,
    SubsetFacts,
    TargetFacts,
    TaskScore,
    TrajectoriesFacts,
)
from s2l_ray.artifacts.manifest import Artifact, Manifest, write_manifest
from s2l_ray.artifacts.tables import FileRecord, record_of
from s2l_ray.core.training.records import CheckpointRecord

STEPS = (0, 5, 9)
FACTS: dict[str, Facts] = {
    "dataset": DatasetFacts({"ok": 29, "no_target_tokens": 1}, {"sums": 20, "other": 10}, 90, 60, 2, 9, 4, 300),
    "embeddings": EmbeddingsFacts(384, {"sums": 19, "other": 10}, 3),
    "task": DatasetFacts({"ok": 9}, {"task": 9}, 30, 20, 0, 8, 1, 300),
    "target_dataset": DatasetFacts({"ok": 30}, {"sums": 20, "other": 10}, 80, 50, 2, 9, 4, 200),
    "checkpoints": CheckpointsFacts(
        tuple(CheckpointRecord(step, step / 9, 8 * step, 1e-3, None if step == 0 else 2.5, None) for step in STEPS),
        training_loss_first=3.5,
        training_loss_last=2.5,
        held_out_loss_last=2.75,
    ),
    "trajectories": TrajectoriesFacts(
        list(STEPS),
        ["loss", "el2n"],
        {"sums": 19, "other": 9},
        attention={"packed": 11},
        numerics={"unknown": "no check"},
        skipped=(SkippedUnit("losses/step-000005/shard-00001.parquet", "CUDA error"),),
        skipped_steps=[5],
    ),
    "clusters": ClustersFacts(5, 1, 12.5, "source", {"sums": [12, 7], "other": [5, 4, 0]}, 0.25),
    "target": TargetFacts(CheckpointRecord(9, 1.0, 72, 1e-3, 2.5, 2.75), "subset", 6, 900, 3.5, 2.5, 2.75),
    "subset": SubsetFacts("s2l", 6, 28, 29, {"sums": 4, "other": 2}, {"filled": 1}, "rows", 6, 1, 2),
    "evaluation": EvaluationFacts(
        {"sums": 2.5, "other": 3.5}, {"sums": 3, "other": 1}, 3.0, 2.75, {"gsm8k": TaskScore(20, 15.0, 8.2, 0.25, 64.5)}
    ),
}
SETTINGS: dict[str, Settings] = {
    "dataset": PrepareExecution(1000),
    "embeddings": EmbedExecution(32, 2, 0.5),
    "task": PrepareExecution(1000),
    "target_dataset": PrepareExecution(1000),
    "checkpoints": TrainExecution(2, 1.0, 4, 8, "fsdp", "padded", True),
    "trajectories": ScoreExecution(4096, "auto", 2, 0.5),
    "clusters": ClusterExecution("torch", 3, 0.0),
    "subset": SelectExecution(),
    "target": TrainExecution(1, 0.0, 1, 4, "ddp", "auto", False),
    "evaluation": EvaluateExecution(4096, "auto", 2, 0.5, "vllm", 16, 512),
}
COUNTS = Counts(32, 30, {"duplicate": 2})


def fingerprint(number: int) -> str:
    """A name for an artifact."""
    return f"{number:012x}"


def execution(kind: str) -> Execution:
    """An execution record of this kind."""
    return Execution(SETTINGS[kind], {"python": "3.11.7", "torch": "2.13.0"})


def manifest(
    kind: str, name: str, files: list[FileRecord], inputs: dict[str, str] | None = None, facts: Facts | None = None
) -> Manifest:
    """A manifest of this kind."""
    return Manifest(
        kind=kind,
        version=1,
        fingerprint=name,
        inputs=inputs or {},
        identity={kind: {"seed": 0}},
        config={"run": "small"},
        execution=execution(kind),
        files=files,
        counts=COUNTS,
        facts=facts or FACTS[kind],
        timings={"seconds": 1.5},
        provenance={"command": "tests", "host": "localhost", "finished": "2026-01-02T03:04:05Z", "commit": None},
        columns={"example_id": "string"},
    )


def put_bytes(folder: str, path: str, data: bytes) -> FileRecord:
    """Write a file and return its record."""
    storage.write_bytes(storage.join(folder, path), data)
    return record_of(path, data)


def begin(root: str, kind: str, name: str) -> str:
    """An artifact that was begun and has no files yet; its URI."""
    uri = storage.join(root, kind, name)
    write_execution(uri, execution(kind))
    return uri


def complete(
    root: str,
    kind: str,
    name: str,
    files: dict[str, bytes] | None = None,
    inputs: dict[str, str] | None = None,
    facts: Facts | None = None,
) -> Artifact:
    """A complete artifact with these files."""
    uri = begin(root, kind, name)
    contents = files if files is not None else {"shard-00000.parquet": name.encode()}
    records = [put_bytes(uri, path, data) for path, data in contents.items()]
    return write_manifest(uri, manifest(kind, name, records, inputs, facts))
