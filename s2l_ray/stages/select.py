"""select: the artifacts that a method needs -> subset.

The subset is one table of pointers (shard, row) into the dataset with cluster, score and inclusion probability of each
selected row. Selection runs in one actor, which reads columns and no text.
"""

from collections.abc import Mapping
from fractions import Fraction

import numpy as np

from s2l_ray import storage
from s2l_ray.artifacts.execution import SelectExecution
from s2l_ray.artifacts.facts import Counts, DatasetFacts, EmbeddingsFacts, SubsetFacts, TrajectoriesFacts
from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.artifacts.schemas import SUBSET, shard_path
from s2l_ray.artifacts.tables import FileRecord, write_table
from s2l_ray.catalog.pool import PoolRows, read_pool, subset_table
from s2l_ray.catalog.pool_columns import columns_of_needs
from s2l_ray.config.budget import budget_share, budget_unit, check_budget
from s2l_ray.config.sections import Config
from s2l_ray.config.select import Select
from s2l_ray.core.selection.balancing import amount_of
from s2l_ray.core.selection.budgets import Constraints, select_within_budget
from s2l_ray.core.selection.learning_percentage import LearningPercentageParams, select_as_official
from s2l_ray.core.selection.pool import Pool, Selection
from s2l_ray.core.selection.registry import SELECTORS
from s2l_ray.errors import ConfigError
from s2l_ray.runtime.contracts import Cluster, ResourceRequest
from s2l_ray.runtime.worker_process import report_progress, working
from s2l_ray.stages.build import Build, Product, cpus_per_actor, memory_request

SelectBuild = Build[SelectExecution]

MEMORY_HINT = "use a node with more memory"
# of a row, its id, and a number of its vector
ROW_BYTES, ID_BYTES, VECTOR_BYTES = 64, 100, 4


def execution(config: Config, cluster: Cluster) -> SelectExecution:
    return SelectExecution()


def resources(build: SelectBuild) -> ResourceRequest:
    """One node with the memory for the columns of the pool, and for ids and vectors where the method compares rows."""
    features, row_bytes = build.config.select.needs.features, ROW_BYTES
    if features is not None:
        row_bytes += ID_BYTES + VECTOR_BYTES * _dimensions(build.inputs[features])
    memory = memory_request(build.cluster, build.inputs["dataset"].facts(DatasetFacts).ok * row_bytes)
    return ResourceRequest("select", MEMORY_HINT, 1, cpus_per_actor(build.cluster), memory=memory)


def _dimensions(features: Artifact) -> int:
    facts = features.manifest.facts
    return facts.dimensions if isinstance(facts, EmbeddingsFacts) else len(features.facts(TrajectoriesFacts).steps)


def select(build: SelectBuild) -> Product:
    config, dataset = build.config.select, build.inputs["dataset"].facts(DatasetFacts)
    budget = check_budget(config.budget, dataset.sizes)
    columns_of_needs(config, build.inputs)  # before a node is requested
    build.note(f"selecting {budget} {budget_unit(config.budget)} by {config.method}")
    uris = {kind: artifact.uri for kind, artifact in build.inputs.items()}
    name, root = f"selecting by {config.method}", storage.absolute(build.config.data.root)
    arguments = (build.folder, uris, config, root, budget)
    file, facts = build.run_on_one_node(name, MEMORY_HINT, resources(build), select_rows, *arguments)
    selected = file.rows or 0
    build.progress(selected, selected, "rows")
    if facts.pool != facts.rows_ok:
        build.warn(f"{config.method} selects from {facts.pool} rows; the dataset has {facts.rows_ok} with status ok")
    left = facts.pool - selected
    return Product([file], Counts(facts.pool, selected, {"not_selected": left} if left else {}), facts, SUBSET)


@working()
def select_rows(
    folder: str, inputs: Mapping[str, str], config: Select, root: str, budget: int
) -> tuple[FileRecord, SubsetFacts]:
    """Read the pool, apply the method within the budget, write the subset. Runs in one actor."""
    artifacts = {kind: open_artifact(uri) for kind, uri in inputs.items()}
    rows = read_pool(artifacts, config, root, report_progress)
    selection = choose(rows, config, budget)
    table, facts = subset_table(rows, selection), _facts(artifacts["dataset"], rows, config, budget, selection)
    del rows, selection  # the columns of the pool, before the table is encoded
    return write_table(folder, shard_path(0), table), facts


def choose(rows: PoolRows, config: Select, budget: int) -> Selection:
    """The selected rows of a pool. Raises `ConfigError` for constraints that cannot be met."""
    params, selector = config.params, SELECTORS[config.method]
    if config.official_parts and isinstance(params, LearningPercentageParams):
        return select_as_official(rows.pool, budget_share(config.budget, rows.pool.amount()), params)

    def method(pool: Pool, amount: int, seed: int) -> Selection:
        return selector.select(pool, amount, seed, params)

    shares = {source: Fraction(str(share)) for source, share in config.shares.items()}
    constraints = Constraints(budget, shares, config.caps, rows.keep_N, rows.drop_N)
    try:
        return select_within_budget(rows.pool, constraints, method, config.seed)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _facts(dataset: Artifact, rows: PoolRows, config: Select, budget: int, selection: Selection) -> SubsetFacts:
    pool = rows.pool
    count_S = np.bincount(pool.source_N[selection.index_M], minlength=len(pool.source_names)).tolist()
    by_source = {name: count for name, count in zip(pool.source_names, count_S, strict=True) if count}
    return SubsetFacts(
        method=config.method,
        budget=budget,
        pool=len(pool),
        rows_ok=dataset.facts(DatasetFacts).ok,
        by_source=dict(sorted(by_source.items())),
        unit=budget_unit(config.budget),
        selected=amount_of(selection.index_M, pool.weight_N),
        kept=0 if rows.keep_N is None else int(rows.keep_N.sum()),
        dropped=0 if rows.drop_N is None else int(rows.drop_N.sum()),
        notes=dict(selection.notes),
    )
