"""Carrying out a plan: build what is missing, in order, and nothing else."""

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from s2l_ray import storage
from s2l_ray.artifacts.building import building
from s2l_ray.artifacts.execution import Execution
from s2l_ray.artifacts.facts import TrajectoriesFacts
from s2l_ray.artifacts.lock import raise_if_locked
from s2l_ray.artifacts.manifest import MANIFEST, Artifact, Manifest, open_artifact
from s2l_ray.artifacts.provenance import libraries, provenance
from s2l_ray.artifacts.runs import record_run, run_folder, write_plan
from s2l_ray.catalog.listing import COMPLETE, DAMAGED, REPLACED, UNRESOLVED
from s2l_ray.config.sections import Config
from s2l_ray.errors import ConfigError, DamagedError, S2LError
from s2l_ray.pipeline.estimates.actual import actual_steps
from s2l_ray.pipeline.estimates.job import estimate_job
from s2l_ray.pipeline.plan import Plan, PlannedStep, plan, plan_to_json
from s2l_ray.pipeline.preflight import check_feasible
from s2l_ray.pipeline.steps import Step, step_of
from s2l_ray.pipeline.tracking.recorder import recording
from s2l_ray.pipeline.usage import UsageMeter
from s2l_ray.runtime.contracts import Progress, Report, ignore_progress
from s2l_ray.stages.build import Build, Product


def run(
    config: Config,
    to: str = "subset",
    *,
    rebuild: str | None = None,
    allow_version_change: bool = False,
    report: Report = ignore_progress,
) -> Artifact:
    """Build what is missing up to `to` and return that artifact. The same call resumes after a kill.

    Arguments as for `plan`. Raises `ConfigError` before anything starts for what cannot work, and `S2LError` for a
    failure of the job.
    """
    planned = plan(config, to, rebuild=rebuild, allow_version_change=allow_version_change)
    return open_artifact(run_plan(planned, report)[to].uri)


def check_plan(planned: Plan) -> None:
    """Raise `ConfigError`, `DamagedError` or `S2LError` for a plan that cannot be carried out."""
    for step in planned.steps:
        if step.state == DAMAGED and not step.rebuild:
            raise DamagedError(f"{step.uri}: {step.reasons[0]}; build it again with --rebuild {step.kind}")
        if step.blocked:
            raise ConfigError(step.blocked) if step.state == UNRESOLVED else S2LError(step.blocked)
    check_feasible(planned)


def run_plan(planned: Plan, report: Report = ignore_progress) -> Plan:
    """Carry out a plan and return it as it ended, with every step complete.

    An exception raised by `report`, such as `KeyboardInterrupt`, ends the run in order.
    """
    check_plan(planned)
    if not planned.missing:
        return planned
    config = planned.config
    entry = record_run(config.root, config.run, planned.fingerprints, config.model_dump(mode="json"), planned.commits)
    estimated = estimate_job(planned)
    record = {"started": entry.started, "steps": plan_to_json(planned), "estimate": asdict(estimated)}
    write_plan(config.root, config.run, entry.started, record)
    for step in planned.missing:
        if step.rebuild or step is planned.missing[0]:
            raise_if_locked(step.uri)  # before artifacts are moved and Ray is started for nothing
    from s2l_ray.runtime.session import connect, describe_cluster

    built: dict[str, Artifact] = {}
    folder, kinds = run_folder(config.root, config.run, entry.started), [step.kind for step in planned.missing]
    with recording(config, folder, kinds, report) as recorder, connect():
        _move_replaced(planned)
        for kind in [step.kind for step in planned.steps]:
            if planned[kind].to_build:
                built[kind] = _build(planned, planned[kind], recorder.report)
                recorder.complete(built[kind], describe_cluster().accelerator)
                planned = _with_artifact(planned, built[kind])
    actual = [asdict(one) for one in actual_steps(estimated.steps, built, config.prices)]
    write_plan(config.root, config.run, entry.started, {**record, "steps": plan_to_json(planned), "actual": actual})
    return planned


def _with_artifact(planned: Plan, artifact: Artifact) -> Plan:
    """The plan after a step. Skipped units change the fingerprints of later artifacts, so that a new plan is needed."""
    config, kind = planned.config, artifact.manifest.kind
    if isinstance(artifact.manifest.facts, TrajectoriesFacts) and artifact.manifest.facts.skipped:
        fresh = plan(config, planned.to, allow_version_change=planned.allow_version_change, commits=planned.commits)
        steps = (replace(step, rebuild=planned[step.kind].rebuild and step.kind != kind) for step in fresh.steps)
        fresh = replace(fresh, steps=tuple(steps))
        check_plan(fresh)
        record_run(config.root, config.run, fresh.fingerprints, config.model_dump(mode="json"), fresh.commits)
        _move_replaced(fresh)
        return fresh
    complete = replace(planned[kind], state=COMPLETE, artifact=artifact, rebuild=False, reasons=())
    return replace(planned, steps=tuple(complete if step.kind == kind else step for step in planned.steps))


def _move_replaced(planned: Plan) -> None:
    """Move artifacts that are rebuilt to `{root}/replaced/`, last ones first: none is left on a replaced input."""
    for step in reversed(planned.steps):
        if step.rebuild and storage.exists(step.uri):
            name = f"{step.kind}-{step.fingerprint}-{time.strftime('%Y%m%d-%H%M%S')}"
            root = storage.absolute(planned.config.root)
            storage.move_folder(step.uri, storage.join(root, REPLACED, name))


def _build(planned: Plan, one: PlannedStep, report: Report) -> Artifact:
    """Build one artifact: lock, resources, execution record, stage, manifest."""
    from s2l_ray.runtime.placement import wait_for_resources
    from s2l_ray.runtime.session import describe_cluster

    config, started, usage = planned.config, time.monotonic(), UsageMeter()
    step = step_of(one.kind, config)
    with building(one.uri, one.kind, config.run) as artifact_building:
        reopen = storage.exists(storage.join(one.uri, MANIFEST))
        if reopen and (fresh := plan(config, one.kind)[one.kind]).artifact is not None:
            return fresh.artifact  # another driver completed it since the plan was made

        def checked_report(progress: Progress) -> None:
            artifact_building.lock.check()
            usage.add(progress.usage)
            report(progress)

        cluster, recorded = describe_cluster(), artifact_building.recorded_execution()
        settings = recorded.settings if recorded is not None else step.execution(config, cluster)
        inputs = {kind: open_artifact(planned[kind].uri) for kind in one.inputs}
        build = Build(one.kind, one.uri, config, inputs, settings, cluster, checked_report, step.version)
        request = step.resources(build)
        if recorded is not None:
            hint = f"{request.hint} (recorded settings change only with --rebuild {one.kind})"
            request = replace(request, hint=hint)
        # nothing is changed before resources are available, so that others can be requested until then
        wait_for_resources(cluster, request, config.resources.wait_minutes, build.note)
        if reopen:
            artifact_building.reopen()
        execution = artifact_building.begin(Execution(settings, libraries()))
        product = _run_stage(step, build, inputs)
        complete = recorded is None and not reopen  # else the usage of an earlier attempt is missing
        timings = {"seconds": round(time.monotonic() - started, 3), **(usage.timings() if complete else {})}
        manifest = make_manifest(step, one, config, execution, product, timings)
        artifact = artifact_building.commit(manifest, step.leftovers)
    report(Progress(one.kind, seconds=timings["seconds"], note=f"{one.uri} is complete", built=True))
    return artifact


def make_manifest(
    step: Step, one: PlannedStep, config: Config, execution: Execution, product: Product, timings: dict[str, float]
) -> Manifest:
    """The manifest of a stage's product, with the provenance of this process."""
    return Manifest(
        kind=one.kind,
        version=step.version,
        fingerprint=one.fingerprint,
        inputs=one.inputs,
        identity=one.identity,
        config=config.model_dump(mode="json"),
        execution=execution,
        files=product.files,
        counts=product.counts,
        facts=product.facts,
        timings=timings,
        provenance=provenance(),
        columns={field.name: str(field.type) for field in product.schema} if product.schema is not None else {},
    )


def _run_stage(step: Step, build: Build[Any], inputs: Mapping[str, Artifact]) -> Product:
    """Run the stage; a damaged input is reported with the command that rebuilds it."""
    try:
        return step.stage(build)
    except DamagedError as error:
        for kind, artifact in inputs.items():
            if artifact.uri in str(error):
                raise DamagedError(f"{error}; build it again with --rebuild {kind}") from error
        raise
