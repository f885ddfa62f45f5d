"""prepare: rows read = rows kept + rejected rows by reason, shards independent of ranges and workers, resume."""

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from s2l_ray.artifacts.execution import PrepareExecution
from s2l_ray.artifacts.facts import Counts, DatasetFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.receipts import read_receipt, write_receipt
from s2l_ray.artifacts.tables import read_table, write_table
from s2l_ray.config.load import make_config
from s2l_ray.core.data.tokenization import load_tokenizer
from s2l_ray.errors import ConfigError, S2LError
from s2l_ray.pipeline.run import run
from s2l_ray.stages.build import Product
from s2l_ray.stages.prepare.prepare import prepare
from s2l_ray.stages.prepare.records import RejectedRows
from tests.support.bad_files import write_bad_files
from tests.support.stage_build import local_build, stage_config


def dataset_of(root: Path, data: dict[str, Any], **resources: Any) -> Artifact:
    values = {
        "root": str(root),
        "run": "prepare",
        "data": {"tokenizer": {"train": {"vocab_size": 400}}, **data},
        "proxy": {"model": "unused/unused"},
        "select": {"budget": 1},
        "resources": {"prepare": resources},
    }
    return run(make_config(values, "test"), to="dataset")


def rejected_rows(dataset: Artifact) -> list[dict[str, Any]]:
    return [row for record in dataset.files("rejected/") for row in dataset.read_file(record.path).to_pylist()]


@pytest.mark.slow
def test_a_folder_of_bad_files(ray_session: None, tmp_path: Path) -> None:
    bad = write_bad_files(tmp_path / "bad")
    data = {"root": str(tmp_path), "sources": [{"path": "bad", "format": "alpaca"}], "shard_size": 16}
    dataset = dataset_of(tmp_path / "root", data)
    counts = dataset.manifest.counts
    assert counts.read == bad.rows_in == counts.kept + sum(counts.rejected.values())
    assert counts.kept == bad.good
    assert counts.rejected == dict(bad.rejected)
    assert Counter(row["reason"] for row in rejected_rows(dataset)) == bad.rejected


def write_lines(path: Path, rows: int) -> None:
    lines = []
    for number in range(rows):
        row = {
            "prompt": f"What is {number} plus {number % 7}?",
            "response": f"It is {number + number % 7}.",
            "at": number,
        }
        lines.append("{broken" if number % 11 == 5 else json.dumps(row if number % 13 else {**row, "response": ""}))
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.slow
def test_shards_and_lines_do_not_depend_on_ranges_and_workers(ray_session: None, tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", 300)
    data = {"root": str(tmp_path), "sources": [{"path": "rows.jsonl", "rows": 120}], "shard_size": 32}
    one = dataset_of(tmp_path / "one", data, workers=1)
    many = dataset_of(tmp_path / "many", data, workers=2, range_bytes=2000)
    assert one.shards() == many.shards() and one.shards("text/") == many.shards("text/")
    by_line = {row["line"]: row["reason"] for row in rejected_rows(many)}
    assert by_line == {row["line"]: row["reason"] for row in rejected_rows(one)}
    assert {line for line, reason in by_line.items() if reason == "undecodable"} == set(range(6, 301, 11))
    kept = [row for shard in range(len(one.shards())) for row in one.read_shard(shard).to_pylist()]
    assert len(kept) == 120 and all(json.loads(row["raw"])["at"] == row["line"] - 1 for row in kept)
    assert sorted(row["line"] for row in kept) == [row["line"] for row in kept]


@pytest.mark.slow
def test_targets_are_the_response_and_its_end(ray_session: None, tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", 60)
    data = {"root": str(tmp_path), "sources": [{"path": "rows.jsonl"}], "max_length": 24}
    dataset = dataset_of(tmp_path / "root", data)
    with dataset.hold("tokenizer/") as folder:
        tokenizer = load_tokenizer(str(folder / "tokenizer"))
    whole = 0
    for row in dataset.read_shard(0).to_pylist():
        if row["status"] != "ok":
            assert row["target_spans"] == []
            continue
        start, end = row["target_spans"]
        text = tokenizer.decode(row["input_ids"][start:end])
        assert tokenizer.decode(row["input_ids"][:start]) == row["prompt"]
        assert f"{row['response']}{tokenizer.eos_token}".startswith(text)
        whole += text.endswith(tokenizer.eos_token)
    assert whole > 0


def prepare_here(folder: Path, rows: Path, range_bytes: int = 1 << 20, **data: Any) -> Product:
    """Prepare a file of rows in `folder`, in this process."""
    sources = [{"path": rows.name}]
    tokenizer = {"train": {"vocab_size": 400}}
    config = stage_config(folder, data={"root": str(rows.parent), "sources": sources, "tokenizer": tokenizer, **data})
    return prepare(local_build("dataset", folder, config, [], PrepareExecution(range_bytes)))


def rejected_of(folder: Path, product: Product) -> list[dict[str, Any]]:
    files = [record for record in product.files if record.path.startswith("rejected/")]
    return [row for record in files for row in read_table(str(folder), record).to_pylist()]


def test_long_rows_are_truncated_or_dropped(tmp_path: Path) -> None:
    long = json.dumps({"prompt": "Say it often.", "response": "again and again " * 200})
    never = json.dumps({"prompt": "Much to read. " * 300, "response": "yes"})
    short = [json.dumps({"prompt": f"Is {number} a number?", "response": "yes"}) for number in range(20)]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join([long, never, *short]) + "\n")
    truncated = prepare_here(tmp_path / "truncate", rows, max_length=64)
    facts = truncated.facts
    assert isinstance(facts, DatasetFacts)
    assert (truncated.counts.read, truncated.counts.kept, truncated.counts.rejected) == (22, 22, {})
    assert facts.statuses == {"ok": 21, "no_target_tokens": 1}, "the response of the second row is cut off"
    assert (facts.truncated, facts.longest) == (2, 64)
    dropped = prepare_here(tmp_path / "drop", rows, max_length=64, too_long="drop")
    assert (dropped.counts.kept, dropped.counts.rejected) == (20, {"too_long": 2})
    assert [row["line"] for row in rejected_of(tmp_path / "drop", dropped)] == [1, 2]


def test_shards_whose_rows_are_all_too_long_are_empty(tmp_path: Path) -> None:
    """Shards are cut before rows are encoded, so that the number of a shard does not depend on the tokenizer."""
    long = [
        json.dumps({"prompt": f"Count from {number}.", "response": "again and again " * 200}) for number in range(8)
    ]
    short = [json.dumps({"prompt": f"Is {number} a number?", "response": "yes"}) for number in range(8)]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join([*long, *short]) + "\n")
    product = prepare_here(tmp_path / "dataset", rows, max_length=64, too_long="drop", shard_size=4)
    assert (product.counts.kept, product.counts.rejected) == (8, {"too_long": 8})
    for folder in ("tokens/", "text/"):
        assert [file.rows for file in product.files if file.path.startswith(folder)] == [0, 0, 4, 4]


def test_held_out_rows_have_shards_of_their_own(tmp_path: Path) -> None:
    texts = [{"prompt": f"Is {number} even?", "response": "yes" if number % 2 else "no"} for number in range(95)]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in [*texts, texts[0], {"prompt": "none"}]))
    whole = prepare_here(tmp_path / "whole", rows, shard_size=32)
    product = prepare_here(tmp_path / "parts", rows, shard_size=32, held_out={"per_source": 20})
    assert product.counts == Counts(97, 86, {"missing_field": 1, "duplicate": 1, "held_out": 9})
    facts = product.facts
    assert isinstance(facts, DatasetFacts)
    assert (facts.by_source, facts.held_out, facts.shards) == ({"rows": 86}, {"rows": 9}, 3)
    assert {row["reason"] for row in rejected_of(tmp_path / "parts", product)} == {"missing_field", "duplicate"}

    def lines_of(folder: str, product: Product, prefix: str) -> list[int]:
        files = [record for record in product.files if record.path.startswith(prefix)]
        return [line for file in files for line in read_table(str(tmp_path / folder), file)["line"].to_pylist()]

    pool, held_out = (lines_of("parts", product, prefix) for prefix in ("text/", "held_out/text/"))
    assert pool == sorted(pool) and held_out == sorted(held_out) and len(held_out) == 9
    assert sorted(pool + held_out) == lines_of("whole", whole, "text/")


# ---- receipts and resume


REJECTED = RejectedRows({"undecodable": 1}, files=[])


def test_a_receipt_returns_the_result_for_its_own_key(tmp_path: Path) -> None:
    folder = str(tmp_path)
    write_receipt(folder, "work/unit.json", {"file": "a"}, REJECTED)
    assert read_receipt(folder, "work/unit.json", {"file": "a"}, RejectedRows) == REJECTED
    assert read_receipt(folder, "work/unit.json", {"file": "b"}, RejectedRows) is None
    assert read_receipt(folder, "work/other.json", {"file": "a"}, RejectedRows) is None


@pytest.mark.parametrize("damage", ["receipt", "file", "missing file"])
def test_a_receipt_of_damaged_files_does_not_count(tmp_path: Path, damage: str) -> None:
    folder = str(tmp_path)
    file = write_table(folder, "work/rows.parquet", pa.table({"row": [1, 2, 3]}))
    result = dataclasses.replace(REJECTED, files=[file])
    write_receipt(folder, "work/unit.json", {}, result)
    assert read_receipt(folder, "work/unit.json", {}, RejectedRows) == result
    if damage == "missing file":
        (tmp_path / file.path).unlink()
    else:
        flip_bit(tmp_path / ("work/unit.json" if damage == "receipt" else file.path))
    assert read_receipt(folder, "work/unit.json", {}, RejectedRows) is None


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def modification_times(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()
    }


def test_a_resume_computes_no_complete_unit_again(tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", 120)
    folder = tmp_path / "dataset"
    first = prepare_here(folder, tmp_path / "rows.jsonl", range_bytes=3000, shard_size=16)
    before = modification_times(folder)
    assert sum(name.startswith("work/parse-") for name in before) > 1
    assert prepare_here(folder, tmp_path / "rows.jsonl", range_bytes=3000, shard_size=16) == first
    assert modification_times(folder) == before


@pytest.mark.parametrize(
    ("damaged", "rewritten"),
    [
        ("tokens/shard-00001.parquet", r"(tokens|text)/shard-00001.parquet|work/encode-00001.json"),
        ("text/shard-00001.parquet", r"(tokens|text)/shard-00001.parquet|work/encode-00001.json"),
        ("rejected/rows-00000.parquet", r"rejected/rows-00000.parquet|work/reject-00000.json"),
        ("work/text-00001-00000.parquet", r"work/(text|ids|rejected|parse)-00001.*"),
    ],
)
def test_a_resume_computes_damaged_units_again(tmp_path: Path, damaged: str, rewritten: str) -> None:
    """The others keep their files: the same input gives the same bytes, so their keys do not change."""
    write_lines(tmp_path / "rows.jsonl", 120)
    folder = tmp_path / "dataset"
    first = prepare_here(folder, tmp_path / "rows.jsonl", range_bytes=3000, shard_size=16)
    before = modification_times(folder)
    flip_bit(folder / damaged)
    assert prepare_here(folder, tmp_path / "rows.jsonl", range_bytes=3000, shard_size=16) == first
    after = modification_times(folder)
    assert {name for name in before if after[name] != before[name]} == {
        name for name in before if re.fullmatch(rewritten, name)
    }


def bytes_read() -> int:
    """Bytes that this process has read from files."""
    return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["rchar"])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not count bytes read")
def test_the_text_is_read_a_bounded_number_of_times(tmp_path: Path) -> None:
    """Measured by the kernel: once to parse, once to train the tokenizer, once to encode, and ids for decisions."""
    rng = np.random.default_rng(0)
    texts = [" ".join(f"{word:x}" for word in rng.integers(0, 1000, 300)) for _ in range(32 * 16)]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": text[:500], "response": text[500:]}) + "\n" for text in texts))
    size = rows.stat().st_size
    prepare_here(tmp_path / "first", rows, size, shard_size=256)
    before = bytes_read()
    product = prepare_here(tmp_path / "second", rows, -(-size // 3), shard_size=16)
    assert product.facts.shards == 32
    assert bytes_read() - before <= 4 * size


def test_facts_follow_from_the_rows_of_the_shards(tmp_path: Path) -> None:
    texts = [{"prompt": f"count to {number}", "response": " and ".join("x" * number)} for number in range(1, 61)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    product = prepare_here(tmp_path / "dataset", tmp_path / "rows.jsonl", shard_size=16, max_length=24)
    full = prepare_here(tmp_path / "full", tmp_path / "rows.jsonl", shard_size=100)
    shards = [record for record in product.files if record.path.startswith("tokens/")]
    tables = [read_table(str(tmp_path / "dataset"), record) for record in shards]
    rows = [row for table in tables for row in table.to_pylist()]
    facts = product.facts
    assert isinstance(facts, DatasetFacts)
    assert [table.num_rows for table in tables[:-1]] == [16] * (len(tables) - 1) and facts.shards == len(tables)
    assert facts.statuses == Counter(row["status"] for row in rows)
    assert facts.by_source == {"rows": len(rows)}
    assert facts.tokens == sum(len(row["input_ids"]) for row in rows)
    spans = [row["target_spans"] for row in rows if row["target_spans"]]
    assert facts.target_tokens == sum(end - start for start, end in spans)
    assert facts.longest == max(len(row["input_ids"]) for row in rows) == 24
    (record,) = [record for record in full.files if record.path.startswith("tokens/")]
    lengths = [len(ids) for ids in read_table(str(tmp_path / "full"), record)["input_ids"].to_pylist()]
    assert facts.truncated == sum(length > 24 for length in lengths)
    assert 0 < facts.truncated < len(rows) == len(texts)


@pytest.mark.parametrize("fields", [{"response": "answer"}, {}])
def test_fields_are_mapped_or_the_error_names_the_key(
    ray_session: None, tmp_path: Path, fields: dict[str, str]
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "answer": "b"}\n' * 3)
    source = {"path": "rows.jsonl", "format": "prompt_response", "fields": fields}
    data = {"root": str(tmp_path), "sources": [source], "duplicates": "keep"}
    if fields:
        assert dataset_of(tmp_path / "root", data).manifest.counts.kept == 3
        return
    with pytest.raises(S2LError, match=r"none of 3 rows .*missing_field.*fields"):
        dataset_of(tmp_path / "root", data)


def test_rows_of_evaluation_sets_are_rejected_with_their_source(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(20)]
    questions = {"sets/a.jsonl": ["What is 3 plus 3?", "never"], "sets/b.jsonl": [" ".join(words)], "c.jsonl": ["no"]}
    (tmp_path / "sets").mkdir()
    for name, texts in questions.items():
        (tmp_path / name).write_text("".join(json.dumps({"question": text}) + "\n" for text in texts))
    rows = tmp_path / "rows.jsonl"
    write_lines(rows, 30)
    copied = {"prompt": "Continue.", "response": " ".join(["then", *words[4:17], "end"])}
    rows.write_text(rows.read_text() + json.dumps(copied) + "\n")
    exclude = ["sets", {"path": "c.jsonl", "question": "question"}]
    product = prepare_here(tmp_path / "whole", rows, exclude=exclude)
    contaminated = [row for row in rejected_of(tmp_path / "whole", product) if row["reason"] == "contaminated"]
    assert [row["line"] for row in contaminated] == [4, 31]
    assert all(row["detail"].startswith(f"sets/{name}.jsonl:1") for name, row in zip("ab", contaminated, strict=True))
    assert isinstance(product.facts, DatasetFacts)
    assert product.facts.contaminated == {"sets/a.jsonl": 1, "sets/b.jsonl": 1, "c.jsonl": 0}
    assert product.counts.rejected["contaminated"] == 2
    plain = prepare_here(tmp_path / "plain", rows)
    assert plain.counts.kept == product.counts.kept + 2 and "contaminated" not in plain.counts.rejected


def test_an_evaluation_set_without_questions_is_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", 30)
    (tmp_path / "set.jsonl").write_text(json.dumps({"id": 1}))
    with pytest.raises(ConfigError, match=r"set\.jsonl line 1.*question"):
        prepare_here(tmp_path / "out", tmp_path / "rows.jsonl", exclude=["set.jsonl"])
