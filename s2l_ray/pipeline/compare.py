"""Resolution of jobs, experiments and URIs to complete artifacts, and their comparison."""

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from statistics import fmean

import numpy as np

from s2l_ray import storage
from s2l_ray.artifacts.facts import DatasetFacts
from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.catalog.compare import Compared, Comparison, Stability
from s2l_ray.catalog.compare import compare as compare_artifacts
from s2l_ray.catalog.pool import read_pool
from s2l_ray.config.budget import check_budget
from s2l_ray.config.experiment import is_experiment, load_experiment
from s2l_ray.config.load import load_config
from s2l_ray.config.sections import Config
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.experiment import plan_experiment
from s2l_ray.pipeline.plan import plan
from s2l_ray.stages.select import choose

Target = str | Config | Artifact


def compare(*targets: Target, overrides: Sequence[str] = (), seeds: int = 0) -> Comparison:
    """Compare subsets, trajectories or clusters with one another.

    A target is the URI of an artifact, a job file, an experiment file, a `Config` or an `Artifact`. A job means its
    subset or, where that is not complete, its last complete artifact; an experiment the subsets of all its jobs.
    overrides: keys of the jobs, as in `load_config`. seeds: also repeat the selection of each target with so many
    seeds, and measure the overlap; one target is then enough. Raises `ConfigError` where a target names nothing
    complete.
    """
    found: dict[str, Compared] = {}
    for target in targets:
        for name, one in resolve(target, overrides).items():
            found[name if name not in found else f"{name} ({target})"] = one
    stable = tuple(stability(name, one, seeds) for name, one in found.items()) if seeds else ()
    if stable and len(found) == 1:
        return Comparison((), (), (), (), stable)
    return replace(compare_artifacts(found), stability=stable)


def resolve(target: Target, overrides: Sequence[str] = ()) -> dict[str, Compared]:
    """The artifacts that a target means, by name, with the selections of their jobs."""
    if isinstance(target, Artifact):
        return {f"{target.manifest.kind} {target.manifest.fingerprint}": Compared.of(target)}
    if isinstance(target, Config):
        return {target.run: _compared_job(target)}
    if not target.endswith((".yaml", ".yml")):
        return resolve(open_artifact(target))
    if is_experiment(target):
        subsets = plan_experiment(load_experiment(target, overrides)).subsets()
        return {name: Compared.of(subset) for name, subset in subsets.items()}
    return resolve(load_config(target, overrides))


def _compared_job(config: Config) -> Compared:
    """The complete artifacts of a job: its subset or, where that is not complete, the last of another kind."""
    parts = {step.kind: step.artifact for step in plan(config).steps if step.artifact is not None}
    if not parts:
        raise ConfigError(f"{config.run}: no artifact is complete; build them with `s2l run`")
    return Compared(list(parts.values())[-1], parts, config.select, storage.absolute(config.data.root))


def stability(name: str, compared: Compared, seeds: int) -> Stability:
    """Overlap between the selections with the seeds 0 to `seeds` - 1, from one pool that is read once.

    Raises `ConfigError` for fewer than two seeds, and for an artifact without the inputs that its method reads.
    """
    select, inputs = compared.select, compared.parts
    if seeds < 2:
        raise ConfigError(f"--seeds {seeds}: one selection has no overlap; write at least 2")
    if select is None:
        raise ConfigError(f"{name}: its selection is not known; give a job")
    if missing := [kind for kind in select.needs.inputs() if kind not in inputs]:
        raise ConfigError(f"{name}: {select.method} reads {', '.join(missing)}, not complete; build it with `s2l run`")
    budget = check_budget(select.budget, inputs["dataset"].facts(DatasetFacts).sizes)
    rows = read_pool(inputs, select, compared.root, lambda done, total, unit: None)
    started = time.perf_counter()
    chosen = [choose(rows, select.model_copy(update={"seed": seed}), budget).index_M for seed in range(seeds)]
    seconds = (time.perf_counter() - started) / seeds
    overlaps = [
        len(np.intersect1d(first_M, second_M, assume_unique=True)) / max(1, min(len(first_M), len(second_M)))
        for first_M, second_M in combinations(chosen, 2)
    ]
    size = round(fmean(len(index_M) for index_M in chosen))
    by_chance = size / len(rows.pool)
    return Stability(name, select.method, seeds, size, fmean(overlaps), min(overlaps), by_chance, seconds)
