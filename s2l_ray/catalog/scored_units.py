"""Units of scoring that complete trajectories below a root hold, by what they were made from.

A pool that grows is a new dataset, but its earlier shards are unchanged. Losses of the same checkpoint on the same
shard with the same options are the same, so that they can be copied instead of computed.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from s2l_ray import storage
from s2l_ray.artifacts.execution import ScoreExecution
from s2l_ray.artifacts.facts import TrajectoriesFacts
from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.artifacts.provenance import libraries
from s2l_ray.artifacts.schemas import losses_path, step_name
from s2l_ray.artifacts.tables import FileRecord
from s2l_ray.config.sections import Score
from s2l_ray.errors import S2LError

UnitKey = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class UnitOptions:
    """The options on which a unit depends. statistics: those besides the loss, in order."""

    dtype: str
    statistics: tuple[str, ...]
    non_finite: str
    tokens_per_batch: int
    attention: str


@dataclass(frozen=True)
class StoredUnit:
    """The file of a unit in complete trajectories."""

    artifact: Artifact
    record: FileRecord


def unit_options(score: Score, tokens_per_batch: int, attention: str) -> UnitOptions:
    statistics = tuple(name for name in score.statistics if name != "loss")
    return UnitOptions(score.dtype, statistics, score.non_finite, tokens_per_batch, attention)


def unit_keys(
    dataset: Artifact, checkpoints: Artifact, steps: Sequence[int], options: UnitOptions
) -> dict[tuple[int, int], dict[str, str]]:
    """The key of the unit of each (step, shard), in order of the steps: digests of both, and the options."""
    common = {
        "dtype": options.dtype,
        "statistics": ",".join(options.statistics),
        "non_finite": options.non_finite,
        "tokens_per_batch": str(options.tokens_per_batch),
        "attention": options.attention,
    }
    return {
        (step, shard): {"checkpoint": digest, "shard": record.sha256, **common}
        for step in steps
        for digest in [checkpoint_digest(checkpoints, step)]
        for shard, record in enumerate(dataset.shards())
    }


def checkpoint_digest(checkpoints: Artifact, step: int) -> str:
    """One sha256 over the weights and the config of a checkpoint, wherever it was trained."""
    folder = f"{step_name(step)}/"
    records = [(record.path.removeprefix(folder), record.sha256) for record in checkpoints.files(folder)]
    listed = "\n".join(f"{name} {sha256}" for name, sha256 in records if "safetensors" in name or name == "config.json")
    return hashlib.sha256(listed.encode()).hexdigest()


def find_stored_units(root: str, version: int, but: str = "") -> dict[UnitKey, StoredUnit]:
    """Every unit of the complete trajectories below a root that this installation would compute in the same way.

    version: of the step that scores; libraries are compared too. but: fingerprint of trajectories to leave out.
    """
    found: dict[UnitKey, StoredUnit] = {}
    folder = storage.join(root, "trajectories")
    for name in sorted(set(storage.list_folders(folder)) - {but}):
        try:
            artifact = open_artifact(storage.join(folder, name))
            if _is_scored_alike(artifact, version):
                found.update(_units_of(artifact))
        except S2LError:  # incomplete, damaged, or its inputs are deleted
            continue
    return found


def _is_scored_alike(trajectories: Artifact, version: int) -> bool:
    manifest = trajectories.manifest
    scored = "checkpoints" in manifest.inputs and manifest.version == version
    return scored and not manifest.execution.changes(libraries())


def reused_units(keys: Iterable[Mapping[str, str]], stored: Mapping[UnitKey, StoredUnit]) -> dict[str, int]:
    """Number of units that stored ones make unnecessary, by the fingerprint of their trajectories."""
    found = (stored.get(frozenset(key.items())) for key in keys)
    return dict(Counter(unit.artifact.manifest.fingerprint for unit in found if unit is not None))


def _units_of(artifact: Artifact) -> dict[UnitKey, StoredUnit]:
    settings, score = artifact.manifest.execution.settings, artifact.manifest.identity["score"]
    facts = artifact.facts(TrajectoriesFacts)
    assert isinstance(settings, ScoreExecution)
    attention = str(facts.numerics["attention"])
    options = UnitOptions(
        score["dtype"], tuple(facts.statistics), score["non_finite"], settings.tokens_per_batch, attention
    )
    keys = unit_keys(artifact.input("dataset"), artifact.input("checkpoints"), facts.steps, options)
    records = {record.path: record for record in artifact.files("losses/")}
    return {
        frozenset(key.items()): StoredUnit(artifact, records[path])
        for (step, shard), key in keys.items()
        if (path := losses_path(step, shard)) in records
    }
