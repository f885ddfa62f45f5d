"""Reports of jobs, subsets and plans: the artifacts that a target means, and the files that are written of them."""

import posixpath
from collections.abc import Sequence

from s2l_ray import storage
from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.artifacts.runs import EXPLORER, REPORT, read_history, run_folder
from s2l_ray.artifacts.schemas import KINDS
from s2l_ray.config.load import load_config
from s2l_ray.config.sections import Config
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.plan import Plan, plan
from s2l_ray.reporting.collect import collect
from s2l_ray.reporting.explorer import write_explorer
from s2l_ray.reporting.pool import Parts, read_columns
from s2l_ray.reporting.records import Report
from s2l_ray.reporting.trajectories import flag_rows

Target = str | Config | Artifact | Plan


def report(
    target: Target,
    to: str | None = None,
    *,
    explorer: str | None = None,
    overrides: Sequence[str] = (),
    text: bool = True,
) -> Report:
    """Collect the report of a job, a subset or a plan, and write it to the HTML file `to`.

    target: a job file, a `Config`, the URI of a subset, an `Artifact` or a `Plan`. explorer: write the rows of the pool
    to this Parquet file. overrides: keys of the job. text: include texts of rows. Raises `ConfigError` where the target
    has no complete dataset.
    """
    parts, run = resolve(target, overrides)
    columns = read_columns(parts)
    flagged = flag_rows(columns)
    collected = collect(parts, columns, flagged, run, text=text)
    if to is not None:
        from s2l_ray.reporting.page import page

        storage.write_bytes(to, page(collected).encode())
    if explorer is not None:
        folder, name = posixpath.split(explorer)
        write_explorer(folder or ".", name, parts, columns, flagged, text=text)
    return collected


def report_of_run(planned: Plan, *, text: bool = True) -> str:
    """Write the report and the explorer table of a job into the folder of its newest run, and return the folder."""
    config = planned.config
    folder = run_folder(config.root, config.run, read_history(config.root, config.run)[-1].started)
    report(planned, storage.join(folder, REPORT), explorer=storage.join(folder, EXPLORER), text=text)
    return folder


def resolve(target: Target, overrides: Sequence[str] = ()) -> tuple[Parts, str]:
    """The complete artifacts that a target means, by kind in the order in which they are built, and a name for them."""
    if isinstance(target, Artifact):
        if target.manifest.kind != "subset":
            raise ConfigError(f"{target.uri}: is a {target.manifest.kind} artifact; give a subset or a job file")
        found = _with_inputs(target)
        return {kind: found[kind] for kind in KINDS if kind in found}, str(target.manifest.config.get("run", "subset"))
    if isinstance(target, Plan):
        return _complete(target), target.config.run
    if isinstance(target, Config):
        return resolve(plan(target))
    if not target.endswith((".yaml", ".yml")):
        return resolve(open_artifact(target))
    return resolve(load_config(target, overrides))


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
