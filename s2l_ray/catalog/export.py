"""Export of a subset as its original rows, for a trainer to read.

One JSONL, gzipped JSONL or Parquet file in pool order, written shard by shard and put whole; every byte read from the
artifacts is checked. In JSONL, a row of a text file is spelled as in that file. In Parquet, a field without one type
that holds all its values is JSON text.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from gzip import GzipFile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from s2l_ray import storage
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import TEXT_FOLDER
from s2l_ray.config.sections import Source
from s2l_ray.core.data.examples import chat_up_to, read_row
from s2l_ray.core.data.turns import RejectedRow
from s2l_ray.errors import ConfigError, DamagedError, S2LError

# The selected rows as JSON texts, in parts of bounded size; read twice for Parquet.
ReadRows = Callable[[], Iterator[list[str]]]
SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


@dataclass(frozen=True)
class Exported:
    """A written file. json_fields: fields that are JSON text, because Parquet has no type for all their values."""

    path: str
    rows: int
    bytes: int
    json_fields: tuple[str, ...] = ()


def export_subset(subset: Artifact, target: str, *, force: bool = False, answers: bool = False) -> Exported:
    """Write the rows of a subset to `target`, a path or URI whose suffix decides the format.

    answers: where the answers of a chat are examples, write each selected answer with the turns before it.

    Raises `ConfigError` for an unknown suffix, another kind of artifact, or an existing file without `force`;
    `DamagedError` where the subset or its dataset is not what was written.
    """
    if not target.endswith(SUFFIXES):
        raise ConfigError(f"--to {target}: unknown suffix; write a name that ends in {', '.join(SUFFIXES)}")
    if subset.manifest.kind != "subset":
        raise ConfigError(f"{subset.uri}: is a {subset.manifest.kind} artifact, not a subset; `s2l ls ROOT` lists them")
    if storage.exists(target) and not force:
        raise ConfigError(f"--to {target}: already exists; give another name, or --force to overwrite it")
    dataset = subset.input("dataset")
    read = partial(selected_answers if answers else selected_rows, subset, dataset)
    with storage.output_file(target) as path:
        if target.endswith(".parquet"):
            rows, json_fields = _write_parquet(read, path)
        else:
            rows, json_fields = _write_lines(read, path, compressed=target.endswith(".gz")), ()
        written = path.stat().st_size
    return Exported(target, rows, written, json_fields)


def selected_rows(subset: Artifact, dataset: Artifact) -> Iterator[list[str]]:
    """The selected rows as JSON texts, shard by shard, in pool order; a row with several selected answers once."""
    for examples in _selected_examples(subset, dataset):
        positions = [(one["file"], one["line"]) for one in examples]
        yield [
            one["raw"]
            for number, one in enumerate(examples)
            if one["answer"] is None or number == 0 or positions[number] != positions[number - 1]
        ]


def selected_answers(subset: Artifact, dataset: Artifact) -> Iterator[list[str]]:
    """The selected examples as JSON texts: rows as they are, and an answer of a chat as a chat that ends with it.

    Earlier answers of that chat have weight 0.
    """
    sources = [Source.model_validate(source) for source in dataset.manifest.config["data"]["sources"]]
    for examples in _selected_examples(subset, dataset):
        yield [
            one["raw"] if one["answer"] is None else _chat_up_to(json.loads(one["raw"]), one["answer"], sources)
            for one in examples
        ]


def _chat_up_to(row: dict[str, Any], answer: int, sources: Sequence[Source]) -> str:
    """A chat in the format `messages` that ends with a learned answer, read as the first source that fits reads it."""
    for source in sources:
        with contextlib.suppress(RejectedRow):
            example = read_row(row, source.format, source.fields, source.roles).example
            if example.chat and answer < len(example.answers):
                return json.dumps(chat_up_to(example, answer), ensure_ascii=False)
    raise DamagedError(f"no source of the dataset reads a row with {answer + 1} answers: {json.dumps(row)[:200]}")


def _selected_examples(subset: Artifact, dataset: Artifact) -> Iterator[list[dict[str, Any]]]:
    """raw, file, line and answer of the selected examples, shard by shard, in pool order."""
    selected = subset.read_table(["example_id", "shard", "row"]).sort_by([("shard", "ascending"), ("row", "ascending")])
    tokens, texts = dataset.shards(), dataset.shards(TEXT_FOLDER)
    for shard in selected["shard"].unique().to_pylist():
        here = selected.filter(pc.equal(selected["shard"], shard))
        ids = dataset.read_file(tokens[shard].path, ["example_id"])["example_id"].take(here["row"])
        if ids.to_pylist() != here["example_id"].to_pylist():
            raise DamagedError(f"{subset.uri}: points to other rows than {dataset.uri} holds")
        yield dataset.read_file(texts[shard].path, ["raw", "file", "line", "answer"]).take(here["row"]).to_pylist()


def _write_lines(read: ReadRows, path: Path, *, compressed: bool) -> int:
    rows = 0
    # a gzip header without name and time stamp, so that equal rows are equal bytes
    with path.open("wb") as file, GzipFile("", "wb", fileobj=file, mtime=0) if compressed else file as stream:
        for texts in read():
            stream.write("".join(f"{text}\n" for text in texts).encode())
            rows += len(texts)
    return rows


def _write_parquet(read: ReadRows, path: Path) -> tuple[int, tuple[str, ...]]:
    """Write the rows, and return their number and the fields that are JSON text.

    Two passes: rows of several sources differ in their fields, and a Parquet file has one schema.
    """
    types = _field_types(read)
    schema = pa.schema([(name, kind or pa.string()) for name, kind in types.items()])
    as_json = tuple(name for name, kind in types.items() if kind is None)
    rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for texts in read():
            try:
                writer.write_table(pa.Table.from_pylist([_values(text, as_json) for text in texts], schema=schema))
            except pa.ArrowException as error:
                raise S2LError(f"the rows fit no Parquet schema ({error}); export to a .jsonl file") from error
            rows += len(texts)
    return rows, as_json


def _field_types(read: ReadRows) -> dict[str, pa.DataType | None]:
    """The type of every field of any of the rows; None without one that holds all its values."""
    types: dict[str, pa.DataType | None] = {}
    for texts in read():
        rows = [json.loads(text) for text in texts]
        for name in dict.fromkeys(name for row in rows for name in row):
            found = _arrow_type([row.get(name) for row in rows])
            types[name] = _common_type(types[name], found) if name in types else found
    return types


def _arrow_type(values: list[Any]) -> pa.DataType | None:
    """The type of the values; None for mixed types, `{}`, and numbers beyond 64 bits."""
    if any(map(_has_infinity, values)):
        return None
    try:
        found = pa.array(values).type
    except (pa.ArrowException, OverflowError):
        return None
    return None if _has_empty_struct(found) else found


def _common_type(first: pa.DataType | None, second: pa.DataType | None) -> pa.DataType | None:
    if first is None or second is None:
        return None
    schemas = [pa.schema([("values", one)]) for one in (first, second)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None


def _has_empty_struct(kind: pa.DataType) -> bool:
    """Whether an object without keys is a part of the type, which Parquet does not store."""
    if pa.types.is_struct(kind) and kind.num_fields == 0:
        return True
    return any(_has_empty_struct(kind.field(position).type) for position in range(kind.num_fields))


def _has_infinity(value: object) -> bool:
    """Whether a number such as 1e400 is a part of the value."""
    if isinstance(value, dict | list):
        return any(map(_has_infinity, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and math.isinf(value)


def _values(text: str, as_json: Sequence[str]) -> dict[str, Any]:
    """The fields of a row, those of `as_json` as the row spells them."""
    row: dict[str, Any] = json.loads(text)
    if any(row.get(name) is not None for name in as_json):
        spelled = dict(spelled_fields(text))
        row |= {name: spelled[name] for name in as_json if row.get(name) is not None}
    return row


def spelled_fields(text: str) -> Iterator[tuple[str, str]]:
    """Name and JSON text of each field of an object."""
    decoder, position = json.JSONDecoder(), text.index("{") + 1
    while text[position] != "}":
        name, position = decoder.raw_decode(text, _skip(text, position, " ,\t"))
        start = _skip(text, position, " :\t")
        _, position = decoder.raw_decode(text, start)
        yield name, text[start:position]
        position = _skip(text, position, " \t")


def _skip(text: str, position: int, characters: str) -> int:
    """The first position from `position` on with another character."""
    while text[position] in characters:
        position += 1
    return position
