"""A target of a job, saved at random instead of trained."""

import tempfile
from dataclasses import replace
from pathlib import Path

from s2l_ray.artifacts.execution import Execution, TrainExecution
from s2l_ray.artifacts.facts import Counts, DatasetFacts, TargetFacts
from s2l_ray.artifacts.manifest import Artifact, Manifest, open_artifact, write_manifest
from s2l_ray.artifacts.schemas import step_name
from s2l_ray.config.sections import Config
from s2l_ray.core.training.records import CheckpointRecord
from s2l_ray.pipeline.plan import plan
from tests.support.local_build import build_locally
from tests.support.sample_artifacts import put_bytes
from tests.support.tiny_models import save_checkpoint

STEP = 7


def write_target(config: Config, seed: int = 0, **changes: object) -> Artifact:
    """The dataset of a job that trains on the pool, and a target of random weights; `changes` are fields of its model.

    Returns the target.
    """
    dataset = build_locally(config, "dataset")
    planned = plan(config, "evaluation")["target"]
    with tempfile.TemporaryDirectory() as folder, dataset.hold("tokenizer/") as local:
        model = save_checkpoint(
            Path(folder), seed, local / "tokenizer", vocab_size=dataset.facts(DatasetFacts).vocab_size, **changes
        )
        paths = sorted(path for path in model.iterdir() if path.is_file())
        files = [put_bytes(planned.uri, f"{step_name(STEP)}/{path.name}", path.read_bytes()) for path in paths]
    record = CheckpointRecord(STEP, 1.0, 72, 1e-3, 2.5, 2.75)
    manifest = Manifest(
        kind="target",
        version=1,
        fingerprint=planned.fingerprint,
        inputs=planned.inputs,
        identity=planned.identity,
        config={},
        execution=Execution(TrainExecution(1, 0.0, 1, 8, "ddp", "auto", False), {}),
        files=[replace(file) for file in files],
        counts=Counts(9, 9),
        facts=TargetFacts(record, "pool", 9, 900),
        timings={"seconds": 1.5},
    )
    write_manifest(planned.uri, manifest)
    return open_artifact(planned.uri)
