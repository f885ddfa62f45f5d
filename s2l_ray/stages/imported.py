"""Imports: stages for what was computed elsewhere, instead of `prepare`, `train` and `score`.

    losses -row_numbers-> dataset      where the job has no `data`: one source, a row of the losses a row
    models -checkpoints-> checkpoints  a unit is one checkpoint
    losses -losses------> trajectories

Losses are read on one node, which holds the whole table.
"""

from pathlib import PurePath

from s2l_ray.artifacts.execution import ImportExecution
from s2l_ray.artifacts.facts import CheckpointsFacts, Counts, DatasetFacts, TrajectoriesFacts
from s2l_ray.artifacts.receipts import read_receipt
from s2l_ray.artifacts.schemas import DATASET, OK, TOKENS_FOLDER, trajectories_schema
from s2l_ray.config.identity import checkpoint_origins, losses_spec
from s2l_ray.config.sections import Config
from s2l_ray.errors import S2LError
from s2l_ray.runtime.contracts import Cluster, PoolOptions, ResourceRequest
from s2l_ray.sources.losses import losses_files
from s2l_ray.stages.build import Build, Product, cpus_per_actor, memory_request, total_counts
from s2l_ray.stages.imported_checkpoints import ImportedCheckpoint, ImportUnit, ImportWorker
from s2l_ray.stages.imported_losses import import_losses, write_row_numbers

ImportBuild = Build[ImportExecution]

MEMORY_HINT = "use a node with more memory"
# bytes of memory for each byte of the files of losses
MEMORY_FACTOR = 8


def execution(config: Config, cluster: Cluster) -> ImportExecution:
    return ImportExecution("imported")


def resources(build: ImportBuild) -> ResourceRequest:
    """One node with the memory for the table of losses."""
    bytes_stored = sum(entry.bytes for _, entry in losses_files(losses_spec(build.config).uri))
    memory = memory_request(build.cluster, MEMORY_FACTOR * bytes_stored)
    return ResourceRequest("import", MEMORY_HINT, 1, cpus_per_actor(build.cluster), memory=memory)


def checkpoint_resources(build: ImportBuild) -> ResourceRequest:
    return ResourceRequest("import", MEMORY_HINT, 1, cpus_per_actor(build.cluster))


def checkpoints(build: ImportBuild) -> Product:
    """Copies of the checkpoints of `proxy.checkpoints_from`. Raises `S2LError` if they are not of one model."""
    units = [ImportUnit(origin) for origin in checkpoint_origins(build.config)]
    imported = build.run_missing_units(
        units,
        lambda unit: read_receipt(build.folder, unit.receipt, unit.key, ImportedCheckpoint),
        ImportWorker,
        PoolOptions("importing checkpoints", MEMORY_HINT),
        "checkpoints",
        folder=build.folder,
    )
    first = imported[0]
    if other := next((one for one in imported if one.shapes != first.shapes), None):
        raise S2LError(
            f"proxy.checkpoints_from: the models of steps {first.record.step} and {other.record.step} differ in class "
            "or shapes; name checkpoints of one training"
        )
    files = [file for one in imported for file in one.files]
    return Product(files, Counts(), CheckpointsFacts(tuple(one.record for one in imported)))


def row_numbers(build: ImportBuild) -> Product:
    """A dataset of row numbers, without text or token ids."""
    spec, shard_size = losses_spec(build.config), build.config.data.shard_size
    source = PurePath(spec.file_name).stem
    arguments = (build.folder, spec, source, shard_size)
    request = resources(build)
    files, target_tokens = build.run_on_one_node("numbering rows", MEMORY_HINT, request, write_row_numbers, *arguments)
    shards = [file for file in files if file.path.startswith(TOKENS_FOLDER)]
    rows = sum(file.rows or 0 for file in shards)
    facts = DatasetFacts(
        statuses={OK: rows},
        by_source={source: rows},
        tokens=0,
        target_tokens=target_tokens,
        truncated=0,
        longest=0,
        shards=len(shards),
        vocab_size=0,
    )
    return Product(files, Counts(rows, rows), facts, DATASET)


def losses(build: ImportBuild) -> Product:
    """Trajectories from `score.losses_from`, in the row order of the dataset."""
    dataset, spec = build.inputs["dataset"], losses_spec(build.config)
    arguments = (build.folder, dataset.uri, spec, build.config.score.non_finite)
    imported = build.run_on_one_node("importing losses", MEMORY_HINT, resources(build), import_losses, *arguments)
    if imported.unused_rows:
        build.warn(f"{imported.unused_rows} rows of {spec.uri} belong to no row of the dataset")
    if imported.negative:
        build.warn(
            f"{imported.negative} losses are negative, which no mean of -log p is; check score.losses_from.values, and "
            "reverse the sign of log-probabilities"
        )
    statuses = total_counts(shard.statuses for shard in imported.shards)
    statistics = ("mean_probability",) if spec.values == "logits" else ()
    facts = TrajectoriesFacts(
        steps=list(imported.steps),
        statistics=list(statistics),
        ok_by_source=total_counts(shard.ok_by_source for shard in imported.shards),
        unused_rows=imported.unused_rows,
    )
    read, kept = sum(statuses.values()), statuses.pop(OK, 0)
    files = [shard.file for shard in imported.shards]
    return Product(files, Counts(read, kept, statuses), facts, trajectories_schema(len(facts.steps), statistics))
