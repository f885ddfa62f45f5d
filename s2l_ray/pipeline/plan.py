"""The plan of a run: what each artifact is called, whether it exists, and why it has to be built."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from s2l_ray import storage
from s2l_ray.artifacts.execution import read_execution
from s2l_ray.artifacts.facts import CheckpointsFacts, TrajectoriesFacts
from s2l_ray.artifacts.fingerprint import describe_differences, fingerprint
from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.artifacts.provenance import libraries
from s2l_ray.artifacts.runs import last_commits, last_fingerprints
from s2l_ray.catalog.listing import BUILDING, COMPLETE, MISSING, PARTIAL, UNRESOLVED, artifact_state
from s2l_ray.catalog.scored_units import find_stored_units, reused_units, unit_keys, unit_options
from s2l_ray.catalog.weights import missing_weights
from s2l_ray.config.identity import Identity
from s2l_ray.config.sections import Config
from s2l_ray.errors import ConfigError, S2LError, UnresolvedError
from s2l_ray.pipeline.commits import Commits, resolve_commits
from s2l_ray.pipeline.steps import Step, step_of, steps_to


@dataclass(frozen=True)
class PlannedStep:
    """One artifact of a job.

    state: complete, partial, missing, damaged, or unresolved: without a fingerprint, because a commit that it depends
    on is unknown. artifact: if complete. reasons: why it has to be built. rebuild: it
    is replaced although it may be complete. blocked: why it cannot be built, or an empty string.
    """

    kind: str
    fingerprint: str
    uri: str
    identity: Identity
    inputs: dict[str, str]
    state: str
    artifact: Artifact | None = None
    reasons: tuple[str, ...] = ()
    rebuild: bool = False
    blocked: str = ""

    @property
    def to_build(self) -> bool:
        return self.rebuild or self.state != COMPLETE


@dataclass(frozen=True)
class Plan:
    """The artifacts that a job needs for `to`, in the order in which they are built.

    config: with commits as revisions. commits: by reference, as they were looked up.
    """

    config: Config
    to: str
    steps: tuple[PlannedStep, ...]
    allow_version_change: bool = False
    commits: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, kind: str) -> PlannedStep:
        return next(step for step in self.steps if step.kind == kind)

    def __contains__(self, kind: object) -> bool:
        return any(step.kind == kind for step in self.steps)

    @property
    def missing(self) -> tuple[PlannedStep, ...]:
        """The steps that a run builds."""
        return tuple(step for step in self.steps if step.to_build)

    @property
    def fingerprints(self) -> dict[str, str]:
        return {step.kind: step.fingerprint for step in self.steps}

    def artifact(self, kind: str) -> Artifact | None:
        """The artifact of a kind, if the plan needs it and it is complete."""
        return self[kind].artifact if kind in self else None


def plan(
    config: Config,
    to: str = "subset",
    *,
    rebuild: str | None = None,
    allow_version_change: bool = False,
    commits: Mapping[str, str] | None = None,
) -> Plan:
    """Plan a job from storage, without Ray. Only the commits of names of the hub need a network.

    rebuild: a kind to build again, with everything that depends on it. allow_version_change: resume artifacts that were
    begun under other library versions. commits: those of an earlier plan, which are not looked up again. Raises
    `ConfigError` for an unknown kind, a missing file of the job, or what the hub does not have.
    """
    previous = last_fingerprints(config.root, config.run)
    steps = steps_to(to, config)
    found = Commits(dict(commits or {}), last_commits(config.root, config.run))
    config = resolve_commits(config, [step.kind for step in steps], found)
    if rebuild is not None and rebuild not in [step.kind for step in steps]:
        raise ConfigError(f"--rebuild {rebuild}: this job builds {', '.join(step.kind for step in steps)}")
    planned: dict[str, PlannedStep] = {}
    for step in steps:
        one = _planned_step(step, config, planned, previous)
        replaced = step.kind == rebuild or any(planned[kind].rebuild for kind in one.inputs)
        one = replace(one, rebuild=replaced)
        planned[step.kind] = one if allow_version_change else _with_versions_compared(one)
    if "trajectories" in planned and "checkpoints" in planned:
        planned["trajectories"] = _with_blocked(planned["trajectories"], config, planned["checkpoints"])
        planned["trajectories"] = _with_reuse(planned["trajectories"], config, planned)
    return Plan(config, to, tuple(planned.values()), allow_version_change, found.known)


def _planned_step(step: Step, config: Config, planned: dict[str, PlannedStep], previous: dict[str, str]) -> PlannedStep:
    inputs = {kind: planned[kind].fingerprint for kind in step.inputs(config)}
    unresolved = [kind for kind in inputs if planned[kind].state == UNRESOLVED]
    try:
        identity = step.identity(config)
    except UnresolvedError as error:
        return _unresolved_step(step.kind, config, inputs, (str(error),), blocked=str(error))
    if unresolved:
        return _unresolved_step(step.kind, config, inputs, tuple(f"{kind} is unresolved" for kind in unresolved))
    if skipped := _digest_of_skipped(planned.get("trajectories") if "trajectories" in inputs else None):
        identity |= {"skipped": skipped}
    name = fingerprint(step.kind, step.version, identity, inputs)
    uri = storage.join(storage.absolute(config.root), step.kind, name)
    state = artifact_state(uri, storage.list_files(uri))
    one = PlannedStep(step.kind, name, uri, identity, inputs, state.name)
    if state.name == COMPLETE:
        return _with_allowance(replace(one, artifact=state.artifact), config)
    if state.name == MISSING:
        return replace(one, reasons=_reasons(config.root, one, previous))
    if state.name == BUILDING:
        return replace(one, state=PARTIAL, reasons=(f"being built {state.problem}",))
    return replace(one, reasons=(state.problem,))


def _unresolved_step(
    kind: str, config: Config, inputs: dict[str, str], reasons: tuple[str, ...], blocked: str = ""
) -> PlannedStep:
    uri = storage.join(storage.absolute(config.root), kind, UNRESOLVED)
    return PlannedStep(kind, "", uri, {}, inputs, UNRESOLVED, reasons=reasons, blocked=blocked)


def _with_allowance(one: PlannedStep, config: Config) -> PlannedStep:
    """Trajectories with more skipped units than the job allows are partial: a run scores only those units."""
    if one.artifact is None or one.kind != "trajectories":
        return one
    skipped, allowed = len(one.artifact.facts(TrajectoriesFacts).skipped), config.resources.score.allow_failures
    if skipped <= allowed:
        return one
    reason = f"{skipped} units were skipped, resources.score.allow_failures is {allowed}"
    return replace(one, state=PARTIAL, artifact=None, reasons=(reason,))


def _digest_of_skipped(trajectories: PlannedStep | None) -> str:
    """Digest of the units that complete trajectories skipped; empty if none."""
    if trajectories is None or trajectories.artifact is None or trajectories.rebuild:
        return ""
    paths = [skipped.path for skipped in trajectories.artifact.facts(TrajectoriesFacts).skipped]
    return hashlib.sha256("\n".join(paths).encode()).hexdigest()[:12] if paths else ""


def _with_versions_compared(one: PlannedStep) -> PlannedStep:
    """A resume is blocked where it would mix the results of two versions of a library in one artifact."""
    recorded = read_execution(one.uri, one.kind) if one.state == PARTIAL and not one.rebuild else None
    changes = recorded.changes(libraries()) if recorded is not None else []
    if not changes:
        return one
    blocked = (
        f"{one.uri}: begun under other library versions ({', '.join(changes)}). Install the recorded versions, or "
        f"resume with --allow-version-change, which the manifest records, or start it again with --rebuild {one.kind}"
    )
    return replace(one, blocked=blocked, reasons=(*one.reasons, blocked))


def _with_blocked(trajectories: PlannedStep, config: Config, checkpoints: PlannedStep) -> PlannedStep:
    """Scoring is blocked where it needs weights that gc deleted and no rebuild brings back."""
    if not trajectories.to_build or checkpoints.artifact is None or checkpoints.rebuild:
        return trajectories
    blocked = missing_weights(config.score, checkpoints.artifact)
    reasons = (*trajectories.reasons, blocked) if blocked else trajectories.reasons
    return replace(trajectories, blocked=blocked, reasons=reasons)


def _with_reuse(trajectories: PlannedStep, config: Config, planned: dict[str, PlannedStep]) -> PlannedStep:
    """The number of units that are copied from other trajectories; known once dataset and checkpoints are complete."""
    dataset, checkpoints = planned["dataset"].artifact, planned["checkpoints"].artifact
    if not trajectories.to_build or dataset is None or checkpoints is None:
        return trajectories
    wanted = config.resources.score
    attention = "packed" if wanted.attention == "auto" else wanted.attention  # what most models are scored with
    options = unit_options(config.score, wanted.tokens_per_batch, attention)
    keys = unit_keys(dataset, checkpoints, config.score.steps(checkpoints.facts(CheckpointsFacts).steps), options)
    version = step_of("trajectories", config).version
    stored = find_stored_units(config.root, version, but=trajectories.fingerprint)
    reused = reused_units(keys.values(), stored)
    copied = [f"{units} of {len(keys)} units are copied from {name}" for name, units in reused.items()]
    return replace(trajectories, reasons=(*trajectories.reasons, *copied))


def _reasons(root: str, one: PlannedStep, previous: dict[str, str]) -> tuple[str, ...]:
    """Reasons why an artifact is missing: its differences from the one that the previous run named."""
    if one.kind not in previous:
        return ("not built before in this run",)
    try:
        old = open_artifact(storage.join(root, one.kind, previous[one.kind])).manifest
    except S2LError:
        return ("the previous run did not complete it",)
    changed = describe_differences(old.identity, one.identity)
    changed += [f"input {kind} changed" for kind in one.inputs if old.inputs.get(kind) != one.inputs[kind]]
    return tuple(changed) or ("stage version changed",)


def plan_to_json(planned: Plan) -> list[dict[str, object]]:
    return [
        {
            "kind": step.kind,
            "fingerprint": step.fingerprint,
            "uri": step.uri,
            "state": step.state,
            "build": step.to_build,
            "reasons": list(step.reasons),
        }
        for step in planned.steps
    ]
