"""prepare: raw rows -> the dataset.

In: the sources of the job. Out: shards of tokenised examples, the rows that were set aside with their reasons, and the
tokenizer. Four passes, each over units that do not depend on how many workers there are:

  parse     a range of raw rows  -> formed rows, bad rows
  settle    the ids of all rows  -> a verdict each: kept, duplicate, not sampled (one actor, 24 bytes a row)
  encode    a range's kept rows  -> tokens, by a tokenizer trained on the kept rows where the job asks for that
  cut       slices of ranges     -> shards of `data.shard_size`

What the passes leave for one another lies under `work/` and goes when the manifest stands.
"""

import json
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict
from typing import Any

from s2l_ray import storage
from s2l_ray.artifacts.receipts import read_receipt, write_receipt
from s2l_ray.artifacts.schemas import DATASET, OK, shard_path
from s2l_ray.artifacts.tables import FileRecord, record_of
from s2l_ray.config.identity import local_folder, source_spec
from s2l_ray.config.sections import Config, TokenizerToTrain
from s2l_ray.core.data.deduplication import cut_shards
from s2l_ray.errors import S2LError
from s2l_ray.runtime.actor_pool import describe, run_units
from s2l_ray.runtime.contracts import Cluster, Failed, PoolOptions, Progress, ResourceRequest
from s2l_ray.sources.ranges import Range, list_ranges
from s2l_ray.stages.build import (
    Build,
    NamedUnit,
    Product,
    Stage,
    cpus_each,
    in_one_place,
    look_for,
    pool_size,
    retry_options,
)
from s2l_ray.stages.prepare_workers import CutWorker, EncodeWorker, ParseWorker, make_tokenizer, settle_rows

KIND = "dataset"
Result = dict[str, Any]
WORK = "work"
TOKENIZER = "tokenizer"


def execution(config: Config, cluster: Cluster) -> dict[str, Any]:
    """The ranges are recorded, since the table of rejected rows has one file for each."""
    return {"range_bytes": config.resources.prepare.range_bytes}


def needs(build: Build) -> ResourceRequest:
    """Room for the least number of workers."""
    least, _ = pool_size(build.config.resources.prepare.workers, build.cluster, 0)
    return ResourceRequest("prepare", "lower resources.prepare.workers", least, cpus_each(build.cluster))


def prepare(build: Build) -> Stage:
    """Parse, settle, encode, cut."""
    data = build.config.data
    specs, root = [source_spec(source) for source in data.sources], storage.absolute(data.root)
    ranges = list_ranges(specs, root, build.execution["range_bytes"])
    yield Progress(KIND, 0, len(ranges), unit="ranges", note=f"{len(data.sources)} sources in {len(ranges)} ranges")
    parsed = yield from _pass(build, "parse", _parse_units(build, ranges), ParseWorker, {"data": data.model_dump()})
    _refuse_empty(build, parsed)
    settled = yield from _settle(build, parsed)
    tokenizer = yield from _tokenizer(build, parsed, settled)
    units = _encode_units(build, ranges, parsed, settled, tokenizer)
    arguments = {"data": data.model_dump(), "tokenizer": tokenizer["files"]}
    encoded = yield from _pass(build, "encode", units, EncodeWorker, arguments)
    shards = yield from _pass(build, "cut", _cut_units(build, encoded), CutWorker, {})
    if not shards:
        raise S2LError(
            f"no row is left after setting aside {dict(_reasons(encoded))}; look at the fields of data.sources"
        )
    return _product(tokenizer, encoded, shards)


def _pass(
    build: Build,
    name: str,
    units: list[NamedUnit],
    worker: Callable[..., Callable[[Any], Any]],
    arguments: dict[str, Any],
) -> Generator[Progress, None, list[Result]]:
    """The results of one pass in the order of its units; those with a receipt are not done again."""
    found = look_for(units, lambda unit: read_receipt(build.folder, unit["receipt"], unit["facts"]))
    results = {unit["receipt"]: result for unit, result in zip(units, found, strict=True) if result is not None}
    missing = [unit for unit in units if unit["receipt"] not in results]
    least, most = pool_size(build.config.resources.prepare.workers, build.cluster, 0)
    options = PoolOptions(
        name=f"preparing ({name})",
        memory_hint="lower resources.prepare.workers",
        min_actors=least,
        max_actors=most,
        cpus=cpus_each(build.cluster),
        retry=retry_options(build),
        done_before=len(results),
        failure_hint="run again to retry only the failed units, or remove such a file from data.sources",
        units_per_task=max(1, len(missing) // (16 * most)),
    )
    for outcome in run_units(missing, worker, options, {"folder": build.folder, **arguments}):
        if isinstance(outcome, Failed):
            yield Progress(KIND, warning=f"failed: {describe(outcome)}")
            continue
        result = outcome.value
        results[result["receipt"]] = result
        yield Progress(KIND, len(results), len(units), unit=f"{name} units")
    return [results[unit["receipt"]] for unit in units]


def _parse_units(build: Build, ranges: Sequence[Range]) -> list[NamedUnit]:
    return [
        NamedUnit(
            {
                "name": _name(one),
                "range": asdict(one),
                "number": number,
                "receipt": f"{WORK}/parse-{number:05d}.json",
                "facts": _facts(one),
            }
        )
        for number, one in enumerate(ranges)
    ]


def _name(one: Range) -> str:
    """The range as messages call it: bytes of a file, or rows of the kinds that count those. No two have one name."""
    return f"{one.file} from {one.start} to {one.stop} (data.sources.{one.source})"


def _facts(one: Range) -> dict[str, str]:
    """What a range is, wherever its file lies."""
    return {
        "file": one.file,
        "kind": one.kind,
        "start": str(one.start),
        "stop": str(one.stop),
        "size": str(one.file_bytes),
    }


def _refuse_empty(build: Build, parsed: list[Result]) -> None:
    if not any(result["formed"] for result in parsed):
        reasons = Counter[str]()
        for result in parsed:
            reasons.update(result["reasons"])
        raise S2LError(
            f"none of {sum(result['read'] for result in parsed)} rows became an example ({dict(reasons)}); "
            "check data.sources: format and fields"
        )


def _settle(build: Build, parsed: list[Result]) -> Generator[Progress, None, Result]:
    data = build.config.data
    settings = {
        "drop_duplicates": data.duplicates == "drop",
        "rows_by_entry": [source.rows for source in data.sources],
        "limit": float(data.limit.removesuffix("%")) / 100 if isinstance(data.limit, str) else data.limit,
        "seed": data.seed,
    }
    facts = {"settings": json.dumps(settings), "parsed": _digest(parsed)}
    done = read_receipt(build.folder, f"{WORK}/settle.json", facts)
    if done is not None:
        return done
    formed = [result["files"][0] for result in parsed]
    what, lower, place = "filtering rows", "use a node with more memory", needs(build)
    arguments = (build.folder, formed, settings)
    files = yield from in_one_place(build, settle_rows, *arguments, what=what, lower=lower, place=place)
    return write_receipt(build.folder, f"{WORK}/settle.json", facts, {}, [FileRecord(**record) for record in files])


def _tokenizer(build: Build, parsed: list[Result], settled: Result) -> Generator[Progress, None, Result]:
    """The tokenizer's files, in the dataset's own folder, and its size."""
    data = build.config.data
    train = data.tokenizer.train.vocab_size if isinstance(data.tokenizer, TokenizerToTrain) else None
    place = ""
    if isinstance(data.tokenizer, str):
        place = str(local_folder(build.config, data.tokenizer, "data.tokenizer") or data.tokenizer)
    facts = {"tokenizer": str(data.tokenizer), "settled": _digest([settled])}
    done = read_receipt(build.folder, f"{WORK}/tokenizer.json", facts)
    if done is None:
        pairs = [(result["files"][0], verdict) for result, verdict in zip(parsed, settled["files"], strict=True)]
        arguments = (place, data.tokenizer_revision, train, build.folder, pairs)
        what, lower, at = "making the tokenizer", "use a node with more memory", needs(build)
        contents, size = yield from in_one_place(build, make_tokenizer, *arguments, what=what, lower=lower, place=at)
        records = []
        for name, content in sorted(contents.items()):
            storage.write_bytes(storage.join(build.folder, TOKENIZER, name), content)
            records.append(record_of(f"{TOKENIZER}/{name}", content))
        done = write_receipt(build.folder, f"{WORK}/tokenizer.json", facts, {"vocab_size": size}, records)
    return done


def _encode_units(
    build: Build, ranges: Sequence[Range], parsed: list[Result], settled: Result, tokenizer: Result
) -> list[NamedUnit]:
    first_line: Counter[str] = Counter()
    units: list[NamedUnit] = []
    tokens = _digest([tokenizer])
    for number, (one, result, verdict) in enumerate(zip(ranges, parsed, settled["files"], strict=True)):
        file = f"{one.source}:{one.uri}"
        units.append(
            NamedUnit(
                {
                    "name": _name(one),
                    "number": number,
                    "parsed": result["files"],
                    "verdict": verdict,
                    "lines_before": first_line[file],
                    "receipt": f"{WORK}/encode-{number:05d}.json",
                    "facts": {"parsed": _digest([result]), "verdict": verdict["sha256"], "tokenizer": tokens},
                }
            )
        )
        first_line[file] += result["lines"]
    return units


def _cut_units(build: Build, encoded: list[Result]) -> list[NamedUnit]:
    shards = cut_shards([result["kept"] for result in encoded], build.config.data.shard_size)
    return [
        NamedUnit(
            {
                "name": shard_path(number),
                "path": shard_path(number),
                "slices": [(encoded[position]["files"][0], start, stop) for position, start, stop in slices],
                "receipt": f"{WORK}/cut-{number:05d}.json",
                "facts": {"slices": json.dumps([(encoded[at]["files"][0]["sha256"], *rest) for at, *rest in slices])},
            }
        )
        for number, slices in enumerate(shards)
    ]


def _digest(results: list[Result]) -> str:
    return ",".join(record["sha256"] for result in results for record in result["files"])


def _reasons(encoded: list[Result]) -> Counter[str]:
    reasons: Counter[str] = Counter()
    for result in encoded:
        reasons.update(result["reasons"])
    return reasons


def _product(tokenizer: Result, encoded: list[Result], shards: list[Result]) -> Product:
    rejected = [FileRecord(**result["files"][1]) for result in encoded]
    statuses: Counter[str] = Counter()
    by_source: Counter[str] = Counter()
    for result in encoded:
        statuses.update(result["statuses"])
        by_source.update(result["by_source"])
    kept = sum(result["kept"] for result in encoded)
    read = sum(result["read"] for result in encoded)
    aside = dict(sorted(_reasons(encoded).items()))
    if read != kept + sum(aside.values()):
        raise RuntimeError(f"{read} rows were read, but {kept} kept and {aside} set aside")
    facts = {
        "statuses": dict(sorted(statuses.items())),
        "by_source": dict(sorted(by_source.items())),
        "tokens": sum(result["tokens"] for result in encoded),
        "target_tokens": sum(result["target_tokens"] for result in encoded),
        "truncated": sum(result["truncated"] for result in encoded),
        "shards": len(shards),
        "vocab_size": tokenizer["vocab_size"],
        "ok": statuses[OK],
    }
    listed = [*tokenizer["files"], *(result["files"][0] for result in shards)]
    files = [*rejected, *(FileRecord(**record) for record in listed)]
    return Product(files, {"read": read, "kept": kept, "set_aside": aside}, facts, DATASET)
