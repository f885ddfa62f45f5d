"""prepare: raw rows -> dataset (shards of tokenized examples, rejected rows with reasons, the tokenizer).

Four passes over units that do not depend on the number of workers:

  parse     a range of raw rows   -> examples as text, rejected rows
  filter    the ids of all rows   -> one decision a row: kept, duplicate, not sampled (one actor, 24 bytes a row)
  encode    a range's kept rows   -> token ids, by a tokenizer that may be trained on the kept rows first
  cut       slices of ranges      -> shards of `data.shard_size` rows

Intermediate files are stored below `work/` and deleted once the manifest is written.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from s2l_ray import storage
from s2l_ray.artifacts.execution import PrepareExecution
from s2l_ray.artifacts.facts import Counts, DatasetFacts
from s2l_ray.artifacts.receipts import UnitResult, read_receipt, write_receipt
from s2l_ray.artifacts.schemas import DATASET, shard_path
from s2l_ray.artifacts.tables import FileRecord, record_of
from s2l_ray.config.identity import local_folder, source_spec
from s2l_ray.config.sections import Config, TokenizerToTrain
from s2l_ray.core.data.deduplication import cut_shards
from s2l_ray.errors import S2LError
from s2l_ray.runtime.contracts import Cluster, PoolOptions, ResourceRequest
from s2l_ray.sources.ranges import Range, list_ranges
from s2l_ray.stages import prepare_records as records
from s2l_ray.stages.build import Build, Product, cpus_per_actor, pool_size, total_counts
from s2l_ray.stages.prepare_records import EncodedRange, ParsedRange, StoredFiles, StoredTokenizer
from s2l_ray.stages.prepare_workers import CutWorker, EncodeWorker, ParseWorker, filter_pool, make_tokenizer

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
    parsed = _run_pass(build, "parse", _parse_units(ranges), ParseWorker, ParsedRange, data=data)
    _refuse_empty(parsed)
    decisions = _filter(build, parsed)
    tokenizer = _tokenizer(build, parsed, decisions)
    units = _encode_units(ranges, parsed, decisions, tokenizer)
    encoded = _run_pass(build, "encode", units, EncodeWorker, EncodedRange, data=data, tokenizer=tokenizer.files)
    shards = _run_pass(build, "cut", _cut_units(encoded, data.shard_size), CutWorker, StoredFiles)
    if not shards:
        reasons = total_counts(result.rejected for result in encoded)
        raise S2LError(f"every row was rejected: {reasons}; check the fields of data.sources")
    return _product(tokenizer, encoded, shards)


def _run_pass(
    build: PrepareBuild,
    name: str,
    units: Sequence[U],
    worker: Callable[..., Callable[[U], R]],
    record: type[R],
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

    return build.run_missing_units(units, find, worker, options, f"{name} units", folder=build.folder, **arguments)


def _parse_units(ranges: Sequence[Range]) -> list[records.ParseUnit]:
    return [
        records.ParseUnit(_name(one), f"{WORK}/parse-{number:05d}.json", _key(one), number, one)
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
    if not any(result.examples for result in parsed):
        reasons = total_counts(result.rejected for result in parsed)
        raise S2LError(
            f"none of {sum(result.read for result in parsed)} rows became an example ({reasons}); "
            "check data.sources: format and fields"
        )


def _filter(build: PrepareBuild, parsed: list[ParsedRange]) -> StoredFiles:
    data = build.config.data
    settings = {
        "drop_duplicates": data.duplicates == "drop",
        "rows_by_entry": [source.rows for source in data.sources],
        "limit": float(data.limit.removesuffix("%")) / 100 if isinstance(data.limit, str) else data.limit,
        "seed": data.seed,
    }
    receipt, key = f"{WORK}/filter.json", {"settings": json.dumps(settings), "parsed": _digest(parsed)}
    stored = read_receipt(build.folder, receipt, key, StoredFiles)
    if stored is not None:
        return stored
    arguments = (build.folder, [result.files[0] for result in parsed], settings)
    files = _run_on_one_node(build, "filtering the pool", filter_pool, *arguments)
    return write_receipt(build.folder, receipt, key, StoredFiles(files))


def _tokenizer(build: PrepareBuild, parsed: list[ParsedRange], decisions: StoredFiles) -> StoredTokenizer:
    """Load or train the tokenizer and store its files in the dataset."""
    data = build.config.data
    train = data.tokenizer.train.vocab_size if isinstance(data.tokenizer, TokenizerToTrain) else None
    name = ""
    if isinstance(data.tokenizer, str):
        name = str(local_folder(build.config, data.tokenizer, "data.tokenizer") or data.tokenizer)
    receipt, key = f"{WORK}/tokenizer.json", {"tokenizer": str(data.tokenizer), "filtered": _digest([decisions])}
    stored = read_receipt(build.folder, receipt, key, StoredTokenizer)
    if stored is not None:
        return stored
    kept = [(result.files[0], decision) for result, decision in zip(parsed, decisions.files, strict=True)]
    arguments = (name, data.tokenizer_revision, train, build.folder, kept)
    contents, vocab_size = _run_on_one_node(build, "making the tokenizer", make_tokenizer, *arguments)
    files = []
    for file, content in sorted(contents.items()):
        storage.write_bytes(storage.join(build.folder, TOKENIZER, file), content)
        files.append(record_of(f"{TOKENIZER}/{file}", content))
    return write_receipt(build.folder, receipt, key, StoredTokenizer(vocab_size, files))


def _run_on_one_node(build: PrepareBuild, name: str, function: Callable[..., T], *arguments: object) -> T:
    request = ResourceRequest("prepare", ONE_NODE_MEMORY_HINT, 1, cpus_per_actor(build.cluster))
    return build.run_on_one_node(name, ONE_NODE_MEMORY_HINT, request, function, *arguments)


def _encode_units(
    ranges: Sequence[Range], parsed: list[ParsedRange], decisions: StoredFiles, tokenizer: StoredTokenizer
) -> list[records.EncodeUnit]:
    lines_before: Counter[str] = Counter()
    tokenizer_digest = _digest([tokenizer])
    units = []
    for number, (one, result, decision) in enumerate(zip(ranges, parsed, decisions.files, strict=True)):
        file = f"{one.source}:{one.uri}"
        key = {"parsed": _digest([result]), "decisions": decision.sha256, "tokenizer": tokenizer_digest}
        receipt = f"{WORK}/encode-{number:05d}.json"
        units.append(records.EncodeUnit(_name(one), receipt, key, number, result, decision, lines_before[file]))
        lines_before[file] += result.lines
    return units


def _cut_units(encoded: list[EncodedRange], shard_size: int) -> list[records.CutUnit]:
    units = []
    for number, slices in enumerate(cut_shards([result.kept for result in encoded], shard_size)):
        files = [(encoded[position].files[0], start, stop) for position, start, stop in slices]
        key = {"slices": json.dumps([(file.sha256, start, stop) for file, start, stop in files])}
        units.append(records.CutUnit(shard_path(number), f"{WORK}/cut-{number:05d}.json", key, files))
    return units


def _digest(results: Sequence[UnitResult]) -> str:
    return ",".join(record.sha256 for result in results for record in result.files)


def _product(tokenizer: StoredTokenizer, encoded: list[EncodedRange], shards: list[StoredFiles]) -> Product:
    read, kept = sum(result.read for result in encoded), sum(result.kept for result in encoded)
    rejected = total_counts(result.rejected for result in encoded)
    if read != kept + sum(rejected.values()):
        raise RuntimeError(f"{read} rows were read, but {kept} kept and {rejected} rejected")
    facts = DatasetFacts(
        statuses=total_counts(result.statuses for result in encoded),
        by_source=total_counts(result.by_source for result in encoded),
        tokens=sum(result.tokens for result in encoded),
        target_tokens=sum(result.target_tokens for result in encoded),
        truncated=sum(result.truncated for result in encoded),
        longest=max(result.longest for result in encoded),
        shards=len(shards),
        vocab_size=tokenizer.vocab_size,
    )
    files: list[FileRecord] = [*tokenizer.files, *(result.files[1] for result in encoded)]
    files += [record for shard in shards for record in shard.files]
    return Product(files, Counts(read, kept, rejected), facts, DATASET)
