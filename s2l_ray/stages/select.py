"""select: the artifacts that a method needs -> subset.

The subset is one table of pointers (shard, row) into the dataset with the cluster and the score of each selected row.
Selection runs in one actor, which reads columns and no text.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from s2l_ray.artifacts.execution import SelectExecution
from s2l_ray.artifacts.facts import Counts, DatasetFacts, SubsetFacts, TrajectoriesFacts
from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.artifacts.schemas import SUBSET, shard_path
from s2l_ray.artifacts.tables import FileRecord, write_table
from s2l_ray.catalog.pool import read_pool, subset_table
from s2l_ray.config.budget import check_budget
from s2l_ray.config.sections import Config, Select
from s2l_ray.core.selection.registry import SELECTORS
from s2l_ray.errors import ConfigError
from s2l_ray.runtime.contracts import Cluster, ResourceRequest
from s2l_ray.runtime.worker_process import report_progress
from s2l_ray.stages.build import Build, Product, cpus_per_actor, memory_request

SelectBuild = Build[SelectExecution]

MEMORY_HINT = "use a node with more memory"
ROW_BYTES = 64


def execution(config: Config, cluster: Cluster) -> SelectExecution:
    return SelectExecution()


def resources(build: SelectBuild) -> ResourceRequest:
    """One node with the memory for the columns of the pool."""
    memory = memory_request(build.cluster, build.inputs["dataset"].facts(DatasetFacts).ok * ROW_BYTES)
    return ResourceRequest("select", MEMORY_HINT, 1, cpus_per_actor(build.cluster), memory=memory)


def select(build: SelectBuild) -> Product:
    config = build.config.select
    rows_ok = build.inputs["dataset"].facts(DatasetFacts).ok
    budget = check_budget(config.budget, rows_ok)
    if "trajectories" in build.inputs:
        scored = sum(build.inputs["trajectories"].facts(TrajectoriesFacts).ok_by_source.values())
        if budget > scored:
            hint = f"set it to at most {scored}, or score the rest with resources.score.allow_failures: 0"
            raise ConfigError(f"select.budget: {budget} rows, but only {scored} of {rows_ok} are scored; {hint}")
    build.note(f"selecting {budget} rows by {config.method}")
    uris = {kind: artifact.uri for kind, artifact in build.inputs.items()}
    name, arguments = f"selecting by {config.method}", (build.folder, uris, config, budget, rows_ok)
    file, facts = build.run_on_one_node(name, MEMORY_HINT, resources(build), select_rows, *arguments)
    build.progress(budget, budget, "rows")
    if facts.pool != rows_ok:
        build.warn(f"{config.method} selects from {facts.pool} scored rows; the dataset has {rows_ok} with status ok")
    left = facts.pool - budget
    return Product([file], Counts(facts.pool, budget, {"not_selected": left} if left else {}), facts, SUBSET)


def select_rows(
    folder: str, inputs: Mapping[str, str], config: Select, budget: int, rows_ok: int
) -> tuple[FileRecord, SubsetFacts]:
    """Read the pool, run the selector, write the subset. Runs in one actor."""
    selector = SELECTORS[config.method]
    rows = read_pool({kind: open_artifact(uri) for kind, uri in inputs.items()}, selector.needs, report_progress)
    selection = selector.select(rows.pool, budget, config.seed, config.params)
    file = write_table(folder, shard_path(0), subset_table(rows, selection))
    names = np.asarray(rows.pool.source_names, object)[rows.pool.source_N[selection.index_M]]
    by_source = dict(sorted(Counter(names.tolist()).items()))
    return file, SubsetFacts(config.method, budget, len(rows.pool), rows_ok, by_source, dict(selection.notes))
