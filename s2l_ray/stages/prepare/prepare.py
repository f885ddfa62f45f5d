"""prepare: raw rows -> dataset (shards of tokenized examples, rejected rows with reasons, the tokenizer).

Four passes over units that do not depend on the number of workers:

  parse     a range of raw rows   -> pieces: examples as text, their ids, rejected rows
  filter    the ids of all pieces -> one decision a row: kept, held out, duplicate, not sampled (one actor)
  reject    a group of pieces     -> its rejected rows, with line numbers of the file
  encode    slices of pieces      -> a shard of tokens and text; the tokenizer may be trained on the kept rows first

Shards of `data.shard_size` kept rows of one source are cut before they are encoded, from the counts of the filter, and
pieces are no larger than shards. So every byte of text is read a bounded number of times. Intermediate files are stored
below `work/` and deleted once the manifest is written.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from s2l_ray import storage
from s2l_ray.artifacts.execution import PrepareExecution
from s2l_ray.artifacts.receipts import UnitResult, read_receipt, write_receipt
from s2l_ray.artifacts.schemas import HELD_OUT_FOLDER, tokens_path
from s2l_ray.artifacts.tables import FileRecord, record_of
from s2l_ray.config.budget import share_of
from s2l_ray.config.identity import evaluation_specs, local_folder, source_spec, target_dataset_config, task_config
from s2l_ray.config.sections import Config, TokenizerToTrain
from s2l_ray.core.data.deduplication import BYTES_PER_ROW, HELD_OUT, KEEP
from s2l_ray.errors import S2LError
from s2l_ray.runtime.contracts import Cluster, PoolOptions, ResourceRequest
from s2l_ray.sources.evaluation import read_questions
from s2l_ray.sources.ranges import Range, list_ranges
from s2l_ray.stages.build import Build, Product, cpus_per_actor, memory_request, pool_size, total_counts
from s2l_ray.stages.prepare import records
from s2l_ray.stages.prepare.encode import EncodeWorker, TokenizerFiles, load_tokenizer_files, train_tokenizer_files
from s2l_ray.stages.prepare.filter import FilterOptions, RejectWorker, cut_pieces, filter_pool, group_pieces
from s2l_ray.stages.prepare.parse import ParseWorker
from s2l_ray.stages.prepare.records import (
    EncodedShard,
    FilteredPool,
    ParsedRange,
    Piece,
    PieceSlice,
    RejectedRows,
    StoredTokenizer,
)
from s2l_ray.stages.prepare.report import make_product, summarise_sources, warnings

WORK = "work"
TOKENIZER = "tokenizer"
ONE_NODE_MEMORY_HINT = "use a node with more memory, or prepare a part first (data.limit)"

PrepareBuild = Build[PrepareExecution]

U = TypeVar("U", bound=records.UnitWithReceipt)
R = TypeVar("R", bound=UnitResult)
T = TypeVar("T")


def execution(config: Config, cluster: Cluster) -> PrepareExecution:
    """The size of ranges, which the table of rejected rows depends on."""
    return PrepareExecution(config.resources.prepare.range_bytes)


def resources(build: PrepareBuild) -> ResourceRequest:
    least, _ = pool_size(build.config.resources.prepare.workers, build.cluster, 0)
    return ResourceRequest("prepare", "lower resources.prepare.workers", least, cpus_per_actor(build.cluster))


def prepare(build: PrepareBuild) -> Product:
    data = build.config.data
    specs = [source_spec(source) for source in data.sources]
    ranges = list_ranges(specs, storage.absolute(data.root), build.execution.range_bytes)
    build.note(f"{len(data.sources)} sources in {len(ranges)} ranges")
    questions = Counter(one.file for one in read_questions(evaluation_specs(data), storage.absolute(data.root)))
    if questions:
        build.note(f"excluding {questions.total()} questions of {len(questions)} evaluation sets")
    tokenizer = _load_tokenizer(build) if isinstance(data.tokenizer, str) else None
    named = tokenizer.files if tokenizer else []
    parse = _parse_units(ranges, named)
    parsed = _run_pass(
        build, "parse", parse, ParseWorker, ParsedRange, lambda one: one.read, data=data, tokenizer=named
    )
    _refuse_empty(parsed)
    sources = summarise_sources(data, ranges, parsed)
    for warning in warnings(sources):
        build.warn(warning)
    groups = group_pieces(ranges, parsed)
    pool = _filter(build, groups)
    rejected = _run_pass(build, "reject", _reject_units(groups, pool), RejectWorker, RejectedRows)
    shards = cut_pieces(groups, pool, KEEP, data.shard_size)
    held_out_shards = cut_pieces(groups, pool, HELD_OUT, data.shard_size)
    tokenizer = tokenizer or _train_tokenizer(build, pool, shards)
    encode = _encode_units(shards, "", tokenizer) + _encode_units(held_out_shards, HELD_OUT_FOLDER, tokenizer)
    encoded = _run_pass(
        build,
        "encode",
        encode,
        EncodeWorker,
        EncodedShard,
        lambda shard: shard.counts.kept,
        data=data,
        tokenizer=tokenizer.files,
        per_answer=[source.per_answer for source in sources],
    )
    contaminated = dict.fromkeys(questions, 0) | total_counts(one.contaminated for one in parsed)
    return make_product(sources, rejected, tokenizer, encoded[: len(shards)], encoded[len(shards) :], contaminated)


def prepare_task(build: PrepareBuild) -> Product:
    """The rows of `proxy.train_on` as a dataset of their own, prepared like the pool."""
    return prepare(replace(build, config=task_config(build.config)))


def prepare_target_dataset(build: PrepareBuild) -> Product:
    """The rows of the pool in the tokens of the target."""
    return prepare(replace(build, config=target_dataset_config(build.config)))


def _run_pass(
    build: PrepareBuild,
    name: str,
    units: Sequence[U],
    worker: Callable[..., Callable[[U], R]],
    record: type[R],
    rows_of: Callable[[R], int | None] = lambda result: None,
    **arguments: object,
) -> list[R]:
    """Results of one pass in the order of its units; units with a receipt are not computed again."""
    least, most = pool_size(build.config.resources.prepare.workers, build.cluster, 0)
    options = PoolOptions(
        name=f"preparing ({name})",
        memory_hint="lower resources.prepare.workers",
        min_actors=least,
        max_actors=most,
        failure_hint="run again to retry only these, or remove such a file from data.sources",
    )

    def find(unit: U) -> R | None:
        return read_receipt(build.folder, unit.receipt, unit.key, record)

    return build.run_missing_units(
        units, find, worker, options, f"{name} units", rows_of, folder=build.folder, **arguments
    )


def _parse_units(ranges: Sequence[Range], tokenizer: Sequence[FileRecord]) -> list[records.ParseUnit]:
    digest = ",".join(record.sha256 for record in tokenizer)
    return [
        records.ParseUnit(
            _name(one), f"{WORK}/parse-{number:05d}.json", {**_key(one), "tokenizer": digest}, number, one
        )
        for number, one in enumerate(ranges)
    ]


def _name(one: Range) -> str:
    """The range in messages, unique: bytes of a file, or rows of the kinds that are cut by rows."""
    return f"{one.file} from {one.start} to {one.stop} (data.sources.{one.source})"


def _key(one: Range) -> dict[str, str]:
    """The identity of a range, independent of where its file is stored."""
    bounds = {"start": str(one.start), "stop": str(one.stop), "size": str(one.file_bytes)}
    return {"file": one.file, "kind": one.kind, **bounds}


def _refuse_empty(parsed: list[ParsedRange]) -> None:
    if not any(piece.examples for result in parsed for piece in result.pieces):
        reasons = total_counts(result.rejected for result in parsed)
        raise S2LError(
            f"none of {sum(result.read for result in parsed)} rows became an example ({reasons}); "
            "check data.sources: format and fields"
        )


def _filter(build: PrepareBuild, groups: list[list[Piece]]) -> FilteredPool:
    data = build.config.data
    options = FilterOptions(
        drop_duplicates=data.duplicates == "drop",
        sample_by_source=[source.rows for source in data.sources],
        limit=share_of(data.limit) if isinstance(data.limit, str) else data.limit,
        held_out=data.held_out.per_source if data.held_out else 0,
        seed=data.seed,
    )
    receipt = f"{WORK}/filter.json"
    key = {"options": repr(options), "pieces": _digest([piece for group in groups for piece in group])}
    stored = read_receipt(build.folder, receipt, key, FilteredPool)
    if stored is not None:
        return stored
    memory = BYTES_PER_ROW * sum(piece.examples for group in groups for piece in group)
    pool = _run_on_one_node(build, "filtering the pool", memory, filter_pool, build.folder, groups, options)
    return write_receipt(build.folder, receipt, key, pool)


def _reject_units(groups: list[list[Piece]], pool: FilteredPool) -> list[records.RejectUnit]:
    units = []
    for number, (pieces, decisions) in enumerate(zip(groups, pool.files, strict=True)):
        name, receipt = f"rejected rows {number}", f"{WORK}/reject-{number:05d}.json"
        key = {"pieces": _digest(pieces), "decisions": decisions.sha256}
        units.append(records.RejectUnit(name, receipt, key, number, pieces, decisions))
    return units


def _load_tokenizer(build: PrepareBuild) -> StoredTokenizer:
    """Load the tokenizer that the job names and store its files in the dataset."""
    data = build.config.data
    name = str(data.tokenizer)
    name = str(local_folder(build.config, name, "data.tokenizer") or name)
    key = {"tokenizer": str(data.tokenizer)}
    return _store_tokenizer(build, key, "loading the tokenizer", load_tokenizer_files, name, data.tokenizer_revision)


def _train_tokenizer(build: PrepareBuild, pool: FilteredPool, shards: list[list[PieceSlice]]) -> StoredTokenizer:
    """Train the tokenizer on the kept rows and store its files in the dataset."""
    data = build.config.data
    assert isinstance(data.tokenizer, TokenizerToTrain)
    size, slices = data.tokenizer.train.vocab_size, [one for shard in shards for one in shard]
    key = {"tokenizer": str(data.tokenizer), "filtered": _digest([pool])}
    name = "training the tokenizer"
    return _store_tokenizer(build, key, name, train_tokenizer_files, size, build.folder, data, slices)


def _store_tokenizer(
    build: PrepareBuild, key: dict[str, str], name: str, function: Callable[..., TokenizerFiles], *arguments: object
) -> StoredTokenizer:
    receipt = f"{WORK}/tokenizer.json"
    stored = read_receipt(build.folder, receipt, key, StoredTokenizer)
    if stored is not None:
        return stored
    made = _run_on_one_node(build, name, 0, function, *arguments)
    files = []
    for file, content in sorted(made.contents.items()):
        storage.write_bytes(storage.join(build.folder, TOKENIZER, file), content)
        files.append(record_of(f"{TOKENIZER}/{file}", content))
    return write_receipt(build.folder, receipt, key, StoredTokenizer(made.vocab_size, made.adds_beginning, files))


def _run_on_one_node(
    build: PrepareBuild, name: str, bytes_needed: int, function: Callable[..., T], *arguments: object
) -> T:
    memory, cpus = memory_request(build.cluster, bytes_needed), cpus_per_actor(build.cluster)
    request = ResourceRequest("prepare", ONE_NODE_MEMORY_HINT, 1, cpus, memory=memory)
    return build.run_on_one_node(name, ONE_NODE_MEMORY_HINT, request, function, *arguments)


def _encode_units(shards: list[list[PieceSlice]], folder: str, tokenizer: StoredTokenizer) -> list[records.EncodeUnit]:
    tokenizer_digest = _digest([tokenizer])
    units = []
    for shard, slices in enumerate(shards):
        bounds = [(_digest([one.piece]), one.decisions.sha256, one.start, one.stop) for one in slices]
        key = {"slices": json.dumps(bounds), "tokenizer": tokenizer_digest}
        name, receipt = folder + tokens_path(shard), f"{WORK}/{folder}encode-{shard:05d}.json"
        units.append(records.EncodeUnit(name, receipt, key, folder, shard, slices))
    return units


def _digest(results: Sequence[UnitResult]) -> str:
    return ",".join(record.sha256 for result in results for record in result.files)
