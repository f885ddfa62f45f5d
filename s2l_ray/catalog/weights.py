"""Weights of checkpoints: needed until they are scored, and most of a root's size.

`find_scored_weights` lists what may be deleted, `delete_weights` records the deletion in `dropped.json` before it
deletes, so that no file is ever missing without a record.
"""

from dataclasses import dataclass

from s2l_ray import storage
from s2l_ray.artifacts.facts import CheckpointsFacts, TrajectoriesFacts
from s2l_ray.artifacts.lock import live_holder
from s2l_ray.artifacts.manifest import MANIFEST, Artifact, drop, open_artifact
from s2l_ray.artifacts.runs import read_history, run_names
from s2l_ray.artifacts.schemas import step_name
from s2l_ray.catalog.listing import COMPLETE, list_root
from s2l_ray.config.sections import Score

WEIGHTS = (".safetensors", ".safetensors.index.json")
STEPS_SHOWN = 5


@dataclass(frozen=True)
class ScoredWeights:
    """Weight files of one checkpoints artifact. kept_for: why they are still needed; empty if they may go."""

    uri: str
    paths: tuple[str, ...]
    bytes: int
    kept_for: str = ""


def find_scored_weights(root: str) -> list[ScoredWeights]:
    """The weights of every complete checkpoints artifact. Raises `DamagedError` where a run history is damaged."""
    complete = [info for info in list_root(root).artifacts if info.state == COMPLETE]
    trajectories = [open_artifact(info.uri) for info in complete if info.kind == "trajectories"]
    scored = _scored_steps(trajectories)
    unfinished = _runs_with_unfinished_scoring(root)
    found = []
    for artifact in (open_artifact(info.uri) for info in complete if info.kind == "checkpoints"):
        records = [record for record in artifact.present() if record.path.endswith(WEIGHTS)]
        name, steps = artifact.manifest.fingerprint, set(artifact.facts(CheckpointsFacts).steps)
        unscored = "" if steps <= scored.get(name, set()) else "not every checkpoint is scored on every shard"
        kept_for = unfinished.get(name, unscored)
        paths = tuple(record.path for record in records)
        found.append(ScoredWeights(artifact.uri, paths, sum(record.bytes for record in records), kept_for))
    return [one for one in found if one.paths]


def delete_weights(root: str) -> list[ScoredWeights]:
    """Delete the weights that no run needs and return them."""
    deletable = [one for one in find_scored_weights(root) if not one.kept_for]
    for one in deletable:
        drop(one.uri, one.paths)
    return deletable


def missing_weights(score: Score, checkpoints: Artifact) -> str:
    """Error text if weights that this scoring needs were deleted, else an empty string."""
    steps = checkpoints.facts(CheckpointsFacts).steps if score.checkpoints == "all" else score.checkpoints
    missing = [step for step in steps if checkpoints.dropped.intersection(_weight_paths(checkpoints, step))]
    if not missing:
        return ""
    shown = ", ".join(map(str, missing[:STEPS_SHOWN])) + (", ..." if len(missing) > STEPS_SHOWN else "")
    return (
        f"{checkpoints.uri}: the weights of {len(missing)} checkpoints (steps {shown}) were deleted by gc --weights; "
        "build them again with --rebuild checkpoints"
    )


def _weight_paths(checkpoints: Artifact, step: int) -> list[str]:
    return [record.path for record in checkpoints.files(f"{step_name(step)}/") if record.path.endswith(WEIGHTS)]


def _scored_steps(trajectories: list[Artifact]) -> dict[str, set[int]]:
    """Steps of each checkpoints artifact that complete trajectories without skipped units cover."""
    scored: dict[str, set[int]] = {}
    for artifact in trajectories:
        facts, checkpoints = artifact.facts(TrajectoriesFacts), artifact.manifest.inputs.get("checkpoints")
        if checkpoints is not None and not facts.skipped:
            scored.setdefault(checkpoints, set()).update(facts.steps)
    return scored


def _runs_with_unfinished_scoring(root: str) -> dict[str, str]:
    """Checkpoints whose scoring some run still has to do or is doing, by fingerprint, with the reason."""
    unfinished = {}
    for name in run_names(root):
        history = read_history(root, name)
        for entry in history:
            checkpoints, scored = entry.fingerprints.get("checkpoints"), entry.fingerprints.get("trajectories")
            if checkpoints is None:
                continue
            uri = storage.join(root, "trajectories", scored) if scored else ""
            waiting = entry is history[-1] and not (scored and storage.exists(storage.join(uri, MANIFEST)))
            if waiting or (scored and live_holder(uri) is not None):
                unfinished[checkpoints] = f"run {name} has not scored them yet"
    return unfinished
