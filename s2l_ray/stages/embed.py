"""embed: dataset -> embeddings (one vector for the text of every example).

A unit is a shard and writes one file. A unit whose file is complete and was made from the same shard and options is not
computed again. Only rows with status ok are embedded. Workers take plain values and run without Ray in tests.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.artifacts.execution import EmbedExecution
from s2l_ray.artifacts.facts import Counts, EmbeddingsFacts
from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.artifacts.schemas import OK, TEXT_FOLDER, embeddings_schema, text_path, tokens_path
from s2l_ray.artifacts.tables import FileRecord, find_complete_unit, notes_of, read_table, write_table
from s2l_ray.config.identity import local_folder
from s2l_ray.config.sections import Config, Embed
from s2l_ray.core.arrays import Bool, Float32
from s2l_ray.core.embedding import embed_texts, load_sentence_model, text_to_embed
from s2l_ray.errors import S2LError
from s2l_ray.runtime.contracts import Cluster, PoolOptions, ResourceRequest
from s2l_ray.sources.hub import SENTENCE_MODEL_FILES, model_folder
from s2l_ray.stages.build import Build, Product, ShardUnit, cpus_per_actor, pool_size, total_counts

MEMORY_HINT = "lower resources.embed.rows_per_batch"

EmbedBuild = Build[EmbedExecution]


@dataclass(frozen=True)
class EmbeddedShard:
    """The unit's file, and counts of its rows; truncated: of those embedded."""

    file: FileRecord
    dimensions: int
    statuses: dict[str, int]
    ok_by_source: dict[str, int]
    truncated: int


def execution(config: Config, cluster: Cluster) -> EmbedExecution:
    """Resolve what can change the last bits of an embedding; the number of workers cannot."""
    wanted = config.resources.embed
    gpus = cluster.gpus_each(wanted.gpus, "resources.embed.gpus")
    return EmbedExecution(wanted.rows_per_batch, wanted.threads, gpus)


def resources(build: EmbedBuild) -> ResourceRequest:
    """The minimum number of workers; more start as resources become free."""
    gpus = build.execution.gpus
    least, _ = pool_size(build.config.resources.embed.workers, build.cluster, gpus)
    hint = "lower resources.embed.workers" + (" or set resources.embed.gpus: 0" if gpus else "")
    return ResourceRequest("embed", hint, least, cpus_per_actor(build.cluster), gpus)


def embed(build: EmbedBuild) -> Product:
    """Embed the shards that are missing."""
    shards = _embed_missing(build)
    statuses = total_counts(shard.statuses for shard in shards)
    facts = EmbeddingsFacts(
        dimensions=shards[0].dimensions if shards else 0,
        ok_by_source=total_counts(shard.ok_by_source for shard in shards),
        truncated=sum(shard.truncated for shard in shards),
    )
    counts = Counts(sum(statuses.values()), statuses.pop(OK, 0), statuses)
    return Product([shard.file for shard in shards], counts, facts, embeddings_schema(facts.dimensions))


def plan_units(build: EmbedBuild) -> list[ShardUnit]:
    dataset = build.inputs["dataset"]
    pairs = zip(dataset.shards(), dataset.shards(TEXT_FOLDER), strict=True)
    rows_per_batch = str(build.execution.rows_per_batch)
    return [
        ShardUnit(shard, {"tokens": tokens.sha256, "text": text.sha256, "rows_per_batch": rows_per_batch})
        for shard, (tokens, text) in enumerate(pairs)
    ]


def _embed_missing(build: EmbedBuild) -> list[EmbeddedShard]:
    """The result of every shard, in order."""
    config, execution = build.config, build.execution
    least, most = pool_size(config.resources.embed.workers, build.cluster, execution.gpus)

    def find(unit: ShardUnit) -> EmbeddedShard | None:
        record = find_complete_unit(build.folder, unit.name, unit.key)
        return embedded_shard(build.folder, record) if record is not None else None

    return build.run_missing_units(
        plan_units(build),
        find,
        EmbedWorker,
        PoolOptions("embedding", MEMORY_HINT, min_actors=least, max_actors=most, gpus=execution.gpus),
        "shards embedded",
        rows_of=lambda shard: shard.file.rows,
        folder=build.folder,
        dataset=build.inputs["dataset"].uri,
        model=str(local_folder(config, config.embed.model, "embed.model") or config.embed.model),
        settings=config.embed,
        execution=execution,
    )


class EmbedWorker:
    """One sentence-transformers model in memory."""

    def __init__(self, folder: str, dataset: str, model: str, settings: Embed, execution: EmbedExecution) -> None:
        import torch

        torch.set_num_threads(execution.threads)
        device = "cuda" if execution.gpus and torch.cuda.is_available() else "cpu"
        try:
            local = model_folder(model, settings.revision, SENTENCE_MODEL_FILES)
            self._model = load_sentence_model(str(local), max_length=settings.max_length, device=device)
        except (ValueError, OSError) as error:
            raise S2LError(f"embed.model: {model} cannot be loaded: {error}") from error
        self._folder = folder
        self._dataset = open_artifact(dataset)
        self._settings = settings
        self._rows_per_batch = execution.rows_per_batch

    def __call__(self, unit: ShardUnit) -> EmbeddedShard:
        rows = self._dataset.read_file(tokens_path(unit.shard), ["example_id", "source", "status"])
        text = self._dataset.read_file(text_path(unit.shard), ["prompt", "response"])
        ok_N = pc.equal(rows["status"], OK).to_numpy()
        pairs = zip(*(text[name].filter(pa.array(ok_N)).to_pylist() for name in ("prompt", "response")), strict=True)
        texts = [text_to_embed(prompt, response, self._settings.text) for prompt, response in pairs]
        embedded = embed_texts(self._model, texts, self._rows_per_batch)
        self._check_finite(rows.filter(pa.array(ok_N)), embedded.x_ND)
        vectors = _with_nulls(embedded.x_ND, ok_N)
        table = pa.Table.from_arrays([*rows.columns, vectors], schema=embeddings_schema(vectors.type.list_size))
        # stored with the file, so that a resume does not embed a shard again to count
        notes = {"truncated": str(embedded.truncated)}
        return _counted(write_table(self._folder, unit.name, table, unit.key, notes), table, embedded.truncated)

    def _check_finite(self, rows: pa.Table, x_ND: Float32) -> None:
        wrong_M = np.flatnonzero(~np.isfinite(x_ND).all(axis=1))
        if len(wrong_M):
            shown = ", ".join(rows["example_id"].take(pa.array(wrong_M[:5])).to_pylist())
            raise S2LError(
                f"embed: {len(wrong_M)} rows have no finite embedding (examples {shown}); use another embed.model"
            )


def embedded_shard(folder: str, file: FileRecord) -> EmbeddedShard:
    """The result of a shard that was embedded before."""
    table = read_table(folder, file)
    return _counted(file, table, int(notes_of(table)["truncated"]))


def _counted(file: FileRecord, table: pa.Table, truncated: int) -> EmbeddedShard:
    ok_by_source = Counter(table.filter(pc.equal(table["status"], OK))["source"].to_pylist())
    statuses = Counter(table["status"].to_pylist())
    return EmbeddedShard(
        file, table.schema.field("embedding").type.list_size, dict(statuses), dict(ok_by_source), truncated
    )


def _with_nulls(x_MD: Float32, ok_N: Bool) -> pa.FixedSizeListArray:
    """One vector a row, null where `ok_N` is False."""
    x_ND = np.zeros((len(ok_N), x_MD.shape[1]), np.float32)
    x_ND[ok_N] = x_MD
    return pa.FixedSizeListArray.from_arrays(pa.array(x_ND.reshape(-1)), x_MD.shape[1], mask=pa.array(~ok_N))
