"""Reports of jobs, experiments and subsets: the artifacts that a target means, and the files that are written."""

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace

from s2l_ray import storage
from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.artifacts.runs import EXPLORER, REPORT, read_history, run_folder
from s2l_ray.artifacts.schemas import KINDS
from s2l_ray.config.experiment import is_experiment, load_experiment
from s2l_ray.config.load import load_config
from s2l_ray.config.sections import Config
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.estimates.actual import ActualStep, last_actual
from s2l_ray.pipeline.experiment import ExperimentPlan, plan_experiment
from s2l_ray.pipeline.plan import Plan, plan
from s2l_ray.reporting.collect import collect
from s2l_ray.reporting.experiment import collect_experiment
from s2l_ray.reporting.explorer import write_explorer
from s2l_ray.reporting.pool import Parts, read_columns
from s2l_ray.reporting.records.comparisons import Experiment
from s2l_ray.reporting.records.report import Report
from s2l_ray.reporting.trajectories import flag_rows

Target = str | Config | Artifact | Plan | ExperimentPlan


def report(
    target: Target,
    to: str | None = None,
    *,
    explorer: str | None = None,
    overrides: Sequence[str] = (),
    text: bool = True,
) -> Report:
    """Collect the report of a job, an experiment or a subset, and write it to the HTML file `to`.

    target: a job file or experiment file, a `Config`, the URI of a subset, an `Artifact` or a plan. explorer: write the
    rows of the pool to this Parquet file. overrides: keys of the job. text: include texts of rows. Raises `ConfigError`
    where the target has no complete dataset.
    """
    meant = resolve(target, overrides)
    columns = read_columns(meant.parts)
    flagged = flag_rows(columns)
    collected = collect(meant.parts, columns, flagged, meant.name, text=text, experiment=meant.experiment)
    collected = replace(collected, costs=_costs(meant.parts))
    if to is not None:
        from s2l_ray.reporting.page import page

        storage.write_bytes(to, page(collected).encode())
    if explorer is not None:
        folder, name = posixpath.split(explorer)
        write_explorer(folder or ".", name, meant.parts, columns, flagged, text=text)
    return collected


def report_of_run(planned: Plan | ExperimentPlan, *, built: bool, text: bool = True) -> str:
    """The URI of the report in the folder of the newest run, or of the experiment.

    It is written with the explorer table where something was built, where it is missing, and to leave out texts.
    """
    if isinstance(planned, ExperimentPlan):
        folder = storage.join(planned.experiment.root, "runs", planned.experiment.run)
    else:
        root, run = planned.config.root, planned.config.run
        folder = run_folder(root, run, read_history(root, run)[-1].started)
    uri = storage.join(storage.absolute(folder), REPORT)
    if built or not text or not storage.exists(uri):
        report(planned, uri, explorer=storage.join(folder, EXPLORER), text=text)
    return uri


@dataclass(frozen=True)
class Meant:
    """The complete artifacts that a target means, by kind in the order in which they are built, and its name."""

    name: str
    parts: Parts
    experiment: Experiment | None = None


def resolve(target: Target, overrides: Sequence[str] = ()) -> Meant:
    """Open what a target means; of an experiment, the artifacts of its first arm that has a subset."""
    if isinstance(target, Artifact):
        if target.manifest.kind != "subset":
            raise ConfigError(f"{target.uri}: is a {target.manifest.kind} artifact; give a subset or a job file")
        return Meant(str(target.manifest.config.get("run", "subset")), _in_order(_with_inputs(target)))
    if isinstance(target, Plan):
        return Meant(target.config.run, _complete(target))
    if isinstance(target, ExperimentPlan):
        arm = next((one for one in target.arms if "subset" in one.plan), target.arms[0])
        experiment = collect_experiment(target, arm.job.config.run)
        return Meant(target.experiment.run, _complete(arm.plan), experiment)
    if isinstance(target, Config):
        return Meant(target.run, _of_job(target))
    if not target.endswith((".yaml", ".yml")):
        return resolve(open_artifact(target))
    if is_experiment(target):
        return resolve(plan_experiment(load_experiment(target, overrides)))
    return resolve(load_config(target, overrides))


def _of_job(config: Config) -> dict[str, Artifact]:
    """The complete artifacts of a job, with its target and evaluation where it names a model."""
    found = _complete(plan(config))
    if config.target.model is not None:
        found |= _complete(plan(config, "evaluation"))
    return _in_order(found)


def _costs(parts: Parts) -> tuple[ActualStep, ...]:
    """Planned and actual costs of the run that built the last of the artifacts."""
    last = list(parts.values())[-1]
    root = posixpath.dirname(posixpath.dirname(last.uri))
    return last_actual(root, str(last.manifest.config.get("run", "")))


def _in_order(parts: Parts) -> dict[str, Artifact]:
    return {kind: parts[kind] for kind in KINDS if kind in parts}


def _with_inputs(artifact: Artifact) -> dict[str, Artifact]:
    """An artifact and everything that it was made from."""
    found = {artifact.manifest.kind: artifact}
    for kind in artifact.manifest.inputs:
        found = _with_inputs(artifact.input(kind)) | found
    return found


def _complete(planned: Plan) -> dict[str, Artifact]:
    parts = {step.kind: step.artifact for step in planned.steps if step.artifact is not None}
    if "dataset" not in parts:
        raise ConfigError(f"{planned.config.run}: its dataset is {planned['dataset'].state}; build it with `s2l run`")
    return parts
