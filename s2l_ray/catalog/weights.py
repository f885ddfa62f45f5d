"""The weights of a proxy's checkpoints: needed until they are scored, and then kept or dropped.

In: a job and the artefacts of its plan. Out: the files that `resources.keep_checkpoints` lets go, dropped, unless some
run of the root has still to score them; and a word on what cannot be built once they are gone.
"""

from s2l_ray import storage
from s2l_ray.artifacts.dropped_files import drop
from s2l_ray.artifacts.manifest import MANIFEST, Artifact
from s2l_ray.artifacts.runs import newest_entries
from s2l_ray.artifacts.schemas import step_name
from s2l_ray.config.sections import Config
from s2l_ray.errors import DamagedError, S2LError

KIND = "checkpoints"
WEIGHTS = (".safetensors", ".safetensors.index.json")


def gone_weights(config: Config, checkpoints: Artifact) -> str:
    """Why the checkpoints that a scoring of this job reads are not to be had; empty where they are."""
    asked = config.score.checkpoints
    steps = checkpoints.manifest.facts["steps"] if asked == "all" else asked
    gone = [step for step in steps if checkpoints.dropped.intersection(_weights(checkpoints, step))]
    if not gone:
        return ""
    some = ", ".join(map(str, gone[:5])) + (", ..." if len(gone) > 5 else "")
    return (
        f"{checkpoints.uri}: the weights of {len(gone)} checkpoints (steps {some}) were dropped once they had been "
        "scored (resources.keep_checkpoints); --rebuild checkpoints trains again"
    )


def refuse_gone(config: Config, checkpoints: Artifact) -> None:
    """Raise `S2LError` where a scoring of this job would need what was dropped."""
    if reason := gone_weights(config, checkpoints):
        raise S2LError(reason)


def drop_weights(config: Config, checkpoints: Artifact) -> str:
    """Drop what the job does not keep of checkpoints that it has scored, and say so where there was anything."""
    steps = sorted(checkpoints.manifest.facts["steps"])
    kept = {"all": steps, "last": steps[-1:], "none": []}[config.resources.keep_checkpoints]
    paths = {path for step in set(steps).difference(kept) for path in _weights(checkpoints, step)}
    if not paths and not checkpoints.dropped:
        return ""
    if not paths <= checkpoints.dropped and (waiting := _waiting(config.root, checkpoints)):
        return f"their weights are kept: {waiting}"
    left = drop(checkpoints.uri, paths)
    bytes_left = sum(checkpoints.record(path).bytes for path in left)
    said = f"{len(left)} files of weights dropped, {bytes_left / 1e9:.3g} GB (resources.keep_checkpoints)"
    return said if left else ""


def _weights(checkpoints: Artifact, step: int) -> list[str]:
    return [one.path for one in checkpoints.files(f"{step_name(step)}/") if one.path.endswith(WEIGHTS)]


def _waiting(root: str, checkpoints: Artifact) -> str:
    """Which run has still to score these checkpoints, as far as the records of runs say."""
    try:
        newest = newest_entries(root)
    except DamagedError as error:
        return str(error)
    for run, named in newest.items():
        if named.get(KIND) != checkpoints.manifest.fingerprint:
            continue
        scored = named.get("trajectories")
        if scored is None or not storage.exists(storage.join(root, "trajectories", scored, MANIFEST)):
            return f"run {run} has not scored them yet"
    return ""
