"""The whole story, in order: from raw rows to a subset.

    sources -prepare-> dataset -train-> checkpoints -score-> trajectories -cluster-> clusters -select-> subset

In: a `Config`. Out: `plan`, what each kind's artefact is called, whether it is there and why not; `run`, which builds
what is missing, in this order, and does nothing else. An artefact's name is the fingerprint of what it is made from, so
a rerun finds it, and a changed key builds only what stands on that key.
"""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

from s2l_ray import storage
from s2l_ray.artifacts.fingerprint import describe_differences, fingerprint
from s2l_ray.artifacts.lock import LOCK, Lock, raise_if_locked
from s2l_ray.artifacts.manifest import (
    FILES_TABLE,
    MANIFEST,
    Artifact,
    Manifest,
    begin_execution,
    open_artifact,
    read_execution,
    write_manifest,
)
from s2l_ray.artifacts.provenance import libraries, provenance
from s2l_ray.artifacts.runs import last_entry, record_run
from s2l_ray.catalog.verify import sizes_agree
from s2l_ray.catalog.weights import drop_weights, gone_weights, refuse_gone
from s2l_ray.config.identity import identity_of, selector_inputs, stricter
from s2l_ray.config.sections import Config
from s2l_ray.errors import ConfigError, DamagedError, S2LError
from s2l_ray.runtime.contracts import Cluster, Progress, ResourceRequest
from s2l_ray.runtime.placement import wait_for_resources
from s2l_ray.runtime.session import connect, describe_cluster
from s2l_ray.stages import cluster, prepare, score, select, train
from s2l_ray.stages.build import Build, Stage


@dataclass(frozen=True)
class Step:
    """One kind of artefact: what it is made from, the stage that makes it, and what else is fixed when it is begun.

    `needs`: the room on the cluster without which the stage cannot begin. `version` goes up by hand when the meaning of
    the output changes. `leftovers` are folders only the making needs.
    """

    kind: str
    inputs: tuple[str, ...]
    stage: Callable[[Build], Stage]
    execution: Callable[[Config, Cluster], dict[str, Any]]
    needs: Callable[[Build], ResourceRequest]
    version: int = 1
    leftovers: tuple[str, ...] = ()


STEPS = (
    Step("dataset", (), prepare.prepare, prepare.execution, prepare.needs, leftovers=("work",)),
    Step("checkpoints", ("dataset",), train.train, train.execution, train.needs, leftovers=("resume",)),
    Step("trajectories", ("dataset", "checkpoints"), score.score, score.execution, score.needs),
    Step("clusters", ("trajectories",), cluster.cluster, cluster.execution, cluster.needs),
    Step("subset", (), select.select, select.execution, select.needs),  # its inputs are its selector's
)
KINDS = tuple(step.kind for step in STEPS)
COMPLETE, PARTIAL, MISSING, DAMAGED = "complete", "partial", "missing", "damaged"


@dataclass(frozen=True)
class PlannedStep:
    """One artefact of a job: its name, its place, and whether it is there.

    `reasons` say why it has to be built: the keys that differ from the run before, or the input that does.
    """

    kind: str
    fingerprint: str
    uri: str
    identity: dict[str, Any]
    inputs: dict[str, str]
    state: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Every artefact that a job needs, in the order they are built."""

    steps: tuple[PlannedStep, ...]

    def __getitem__(self, kind: str) -> PlannedStep:
        return next(step for step in self.steps if step.kind == kind)

    @property
    def missing(self) -> tuple[PlannedStep, ...]:
        """What a run would build."""
        return tuple(step for step in self.steps if step.state != COMPLETE)


def plan(config: Config, to: str = "subset") -> Plan:
    """What the job's artefacts are called, which are there, and why the others are not. Needs no Ray and no network.

    Raises `ConfigError` for what can be known to be wrong before anything starts.
    """
    before = last_entry(config.root, config.run)
    planned: dict[str, PlannedStep] = {}
    for step in _needed(config, to):
        inputs = {kind: planned[kind].fingerprint for kind in _inputs(step, config)}
        identity = identity_of(step.kind, config)
        name = fingerprint(step.kind, step.version, identity, inputs)
        uri = storage.join(storage.absolute(config.root), step.kind, name)
        state, found = _state(uri)
        reasons = found if state != MISSING else _reasons(config.root, step.kind, identity, inputs, before)
        planned[step.kind] = PlannedStep(step.kind, name, uri, identity, inputs, state, reasons)
    return Plan(tuple(_with_gone_weights(step, config, planned) for step in planned.values()))


def run(config: Config, to: str = "subset", *, rebuild: str | None = None) -> Artifact:
    """Build what is missing up to `to` and give that artefact. The same call goes on where a killed one stopped."""
    for _ in run_steps(config, to, rebuild=rebuild):
        pass
    return open_artifact(plan(config, to)[to].uri)


def run_steps(config: Config, to: str = "subset", *, rebuild: str | None = None) -> Generator[Progress, None, Plan]:
    """`run`, step by step: yields the progress of what is built and returns the plan that was carried out."""
    planned = plan(config, to)
    _refuse_gone_weights(config, planned, rebuild)
    if rebuild is not None:
        _move_aside(planned, rebuild)
        planned = plan(config, to)
    _refuse_damaged(planned)
    if planned.missing:
        record_run(
            config.root, config.run, {step.kind: step.fingerprint for step in planned.steps}, config.model_dump()
        )
        raise_if_locked(planned.missing[0].uri)  # fail early instead of after Ray has started
        with connect():
            for one in planned.missing:
                yield from _build(config, planned, one)
    if any(step.kind == "trajectories" for step in planned.steps):
        said = drop_weights(config, open_artifact(planned["checkpoints"].uri))
        if said:
            yield Progress("checkpoints", note=said)
    return planned


def _build(config: Config, planned: Plan, one: PlannedStep) -> Generator[Progress, None, None]:
    """Build one artefact: lock, room on the cluster, execution record, stage, manifest."""
    step = next(step for step in STEPS if step.kind == one.kind)
    lock = Lock(one.uri, config.run)
    lock.acquire()
    begun = time.time()
    try:
        if _state(one.uri)[0] == COMPLETE:  # another driver finished it since the plan was made
            return
        _go_on_with_stricter(config, step, one)
        here, execution = describe_cluster(), read_execution(one.uri)
        wanted = execution or {**step.execution(config, here), "libraries": libraries()}
        inputs = {kind: open_artifact(planned[kind].uri) for kind in one.inputs}
        build = Build(one.kind, one.uri, config, inputs, wanted, here)
        yield from _wait_for_room(step.needs(build), build, lock, begun_before=execution is not None)
        execution = begin_execution(one.uri, wanted)
        product = yield from _guarded(step.stage(build), lock, inputs)
        timings = {"seconds": round(time.time() - begun, 3)}
        manifest = Manifest(
            one.kind, step.version, one.fingerprint, one.inputs, one.identity, config.model_dump(mode="json"),
            execution, product.files, product.counts, product.facts, timings, provenance(), _columns(product.schema),
        )  # fmt: skip
        lock.check()
        write_manifest(one.uri, manifest)
        for leftover in step.leftovers:
            storage.delete_folder(storage.join(one.uri, leftover))
    finally:
        lock.release()
    yield Progress(one.kind, 1, 1, unit="artefacts", values=timings, note=f"{one.uri} stands")


def _wait_for_room(
    need: ResourceRequest, build: Build, lock: Lock, begun_before: bool
) -> Generator[Progress, None, None]:
    """Nothing is recorded before there is room, so that other resources can be asked for then."""
    if begun_before:
        need = replace(need, hint=f"{need.hint} (what it was begun with changes with --rebuild {build.kind} alone)")
    lines: list[str] = []
    wait_for_resources(build.cluster, need, build.config.resources.wait_minutes, lines.append)
    lock.check()
    yield from (Progress(build.kind, note=line) for line in lines)


def _go_on_with_stricter(config: Config, step: Step, one: PlannedStep) -> None:
    """Copy the units that the same artefact has where no failure is allowed, for these are the same units."""
    if stricter(config) == config:
        return
    name = fingerprint(step.kind, step.version, identity_of(step.kind, stricter(config)), one.inputs)
    begun = one.uri.removesuffix(one.fingerprint) + name
    if name != one.fingerprint and _state(begun)[0] in (PARTIAL, COMPLETE):
        storage.copy_missing(begun, one.uri, besides=(LOCK, MANIFEST, FILES_TABLE))


def _guarded(stage: Stage, lock: Lock, inputs: dict[str, Artifact]) -> Stage:
    """The stage, stopped once another driver has taken its artefact over; a damaged input is named with its remedy."""
    try:
        while True:
            progress = next(stage)
            lock.check()
            yield progress
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    except DamagedError as error:
        for kind, artifact in inputs.items():
            if artifact.uri in str(error):
                raise DamagedError(f"{error}; build it again with --rebuild {kind}") from error
        raise
    finally:
        stage.close()


def _with_gone_weights(step: PlannedStep, config: Config, planned: dict[str, PlannedStep]) -> PlannedStep:
    """The step, with the reason why it cannot be built."""
    if step.kind != "trajectories" or step.state == COMPLETE or planned["checkpoints"].state != COMPLETE:
        return step
    reason = gone_weights(config, open_artifact(planned["checkpoints"].uri))
    return replace(step, reasons=(*step.reasons, reason)) if reason else step


def _refuse_gone_weights(config: Config, planned: Plan, rebuild: str | None) -> None:
    """Before anything is moved aside or begun that cannot be built again."""
    scores = any(step.kind == "trajectories" and rebuild == step.kind for step in planned.steps)
    scores |= any(step.kind == "trajectories" for step in planned.missing)
    if scores and rebuild not in ("dataset", "checkpoints") and planned["checkpoints"].state == COMPLETE:
        refuse_gone(config, open_artifact(planned["checkpoints"].uri))


def _columns(schema: Any) -> dict[str, str]:
    return {field.name: str(field.type) for field in schema} if schema is not None else {}


def _needed(config: Config, to: str) -> list[Step]:
    """The steps that `to` stands on, and itself, in order."""
    if to not in KINDS:
        raise ConfigError(f"no kind {to}; there are {', '.join(KINDS)}")
    needed = {to}
    for step in reversed(STEPS):
        if step.kind in needed:
            needed.update(_inputs(step, config))
    return [step for step in STEPS if step.kind in needed]


def _inputs(step: Step, config: Config) -> tuple[str, ...]:
    return selector_inputs(config) if step.kind == "subset" else step.inputs


def _state(uri: str) -> tuple[str, tuple[str, ...]]:
    try:
        faults = sizes_agree(open_artifact(uri))
    except DamagedError as error:
        return DAMAGED, (str(error),)
    except S2LError:
        entries = storage.list_files(uri)
        units = sum(entry.path.endswith(".parquet") for entry in entries)
        return (PARTIAL, (f"begun, {units} files are there",)) if entries else (MISSING, ())
    return (DAMAGED, tuple(f"{fault.path}: {fault.problem}" for fault in faults)) if faults else (COMPLETE, ())


def _reasons(
    root: str, kind: str, identity: dict[str, Any], inputs: dict[str, str], before: dict[str, str]
) -> tuple[str, ...]:
    """Why an artefact is not there: what differs from the one that the run before named."""
    if kind not in before:
        return ("not built before in this run",)
    try:
        old = open_artifact(storage.join(root, kind, before[kind])).manifest
    except S2LError:
        return ("the one of the run before was not finished",)
    changed = describe_differences(old.identity, identity)
    changed += [f"another {name}" for name in inputs if old.inputs.get(name) != inputs[name]]
    return tuple(changed) or ("its version is new",)


def _refuse_damaged(planned: Plan) -> None:
    for step in planned.steps:
        if step.state == DAMAGED:
            raise DamagedError(f"{step.uri}: {step.reasons[0]}; build it again with --rebuild {step.kind}")


def _move_aside(planned: Plan, rebuild: str) -> None:
    """Move an artefact and what stands on it out of the way, and keep it."""
    if rebuild not in [step.kind for step in planned.steps]:
        raise ConfigError(f"--rebuild {rebuild}: this job builds {', '.join(step.kind for step in planned.steps)}")
    stale = {rebuild}
    for step in planned.steps:
        if step.kind == rebuild or stale & step.inputs.keys():
            stale.add(step.kind)
            if storage.exists(step.uri):
                root = step.uri.removesuffix(f"/{step.kind}/{step.fingerprint}")
                aside = storage.join(root, "aside", f"{step.kind}-{step.fingerprint}-{time.strftime('%Y%m%d-%H%M%S')}")
                storage.move_folder(step.uri, aside)
