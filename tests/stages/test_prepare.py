"""Rows in = rows kept + rows set aside by reason; and shards that do not depend on how the work was cut."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.artifacts.manifest import Artifact, put_bytes
from s2l_ray.artifacts.tables import decode_table
from s2l_ray.config.load import make_config
from s2l_ray.errors import S2LError
from s2l_ray.pipeline.run import run
from s2l_ray.stages.prepare_workers import EncodeWorker, ParseWorker, make_tokenizer, settle_rows
from tests.support.bad_files import write_bad_files


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


def test_a_folder_of_bad_files(ray_session: None, tmp_path: Path) -> None:
    bad = write_bad_files(tmp_path / "bad")
    data = {"root": str(tmp_path), "sources": [{"path": "bad", "format": "alpaca"}], "shard_size": 16}
    dataset = dataset_of(tmp_path / "root", data)
    counts = dataset.manifest.counts
    assert counts["read"] == bad.rows_in == counts["kept"] + sum(counts["set_aside"].values())
    assert counts["kept"] == bad.good
    assert counts["set_aside"] == dict(bad.rejected)
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
    assert len(many.files("rejected/")) > len(one.files("rejected/")) == 1
    assert [vars(record) for record in one.shards()] == [vars(record) for record in many.shards()]
    by_line = {row["line"]: row["reason"] for row in rejected_rows(many)}
    assert by_line == {row["line"]: row["reason"] for row in rejected_rows(one)}
    assert {line for line, reason in by_line.items() if reason == "undecodable"} == set(range(6, 301, 11))
    kept = one.read_table(["raw", "line"]).to_pylist()
    assert len(kept) == 120 and all(json.loads(row["raw"])["at"] == row["line"] - 1 for row in kept)
    assert sorted(row["line"] for row in kept) == [row["line"] for row in kept]


def test_targets_are_the_response_and_its_end(ray_session: None, tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", 60)
    data = {"root": str(tmp_path), "sources": [{"path": "rows.jsonl"}], "max_length": 24}
    dataset = dataset_of(tmp_path / "root", data)
    from s2l_ray.core.data.tokenization import load_tokenizer

    tokenizer = load_tokenizer(str(dataset.fetch("tokenizer")))
    whole = 0
    for row in dataset.read_table().to_pylist():
        if row["status"] != "ok":
            assert row["target_spans"] == []
            continue
        start, end = row["target_spans"]
        text = tokenizer.decode(row["input_ids"][start:end])
        assert tokenizer.decode(row["input_ids"][:start]) == row["prompt"]
        assert f"{row['response']}{tokenizer.eos_token}".startswith(text)
        whole += text.endswith(tokenizer.eos_token)
    assert whole > 0


def encode_in_this_process(folder: Path, rows: Path, **data: Any) -> dict[str, Any]:
    """One range through parse, settle, tokenizer and encode, without Ray; the result of the last."""
    out = str(folder)
    source = {"path": rows.name, "hub": None, "format": None, "fields": {}, "source": None, "only": {}}
    size = rows.stat().st_size
    position = {"start": 0, "stop": size, "file_bytes": size}
    piece = {"source": 0, "uri": str(rows), "file": rows.name, "kind": "lines", **position}
    receipt = {"number": 0, "facts": {}}
    parsed = ParseWorker(out, {"sources": [source]})({"range": piece, "receipt": "work/parse.json", **receipt})
    assert parsed["read"] == parsed["formed"] + sum(parsed["reasons"].values())
    rule = {"drop_duplicates": True, "rows_by_entry": [None], "limit": None, "seed": 0}
    (verdict,) = settle_rows(out, parsed["files"][:1], rule)
    contents, _ = make_tokenizer("", None, 400, out, [(parsed["files"][0], verdict)])
    tokenizer = [vars(put_bytes(out, f"tokenizer/{name}", content)) for name, content in contents.items()]
    unit = {"parsed": parsed["files"], "verdict": verdict, "lines_before": 0, "receipt": "work/encode.json", **receipt}
    return EncodeWorker(out, {"max_length": 512, "too_long": "truncate", **data}, tokenizer)(unit)


def test_long_rows_are_cut_or_dropped_as_the_job_says(tmp_path: Path) -> None:
    long = json.dumps({"prompt": "Say it often.", "response": "again and again " * 200})
    never = json.dumps({"prompt": "Much to read. " * 300, "response": "yes"})
    short = [json.dumps({"prompt": f"Is {number} a number?", "response": "yes"}) for number in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join([long, never, *short]) + "\n")
    cut = encode_in_this_process(tmp_path / "cut", tmp_path / "rows.jsonl", max_length=64)
    assert cut["kept"] == 22 and cut["truncated"] == 2 and cut["reasons"] == {}
    assert cut["statuses"] == {"ok": 21, "no_target_tokens": 1}
    dropped = encode_in_this_process(tmp_path / "drop", tmp_path / "rows.jsonl", max_length=64, too_long="drop")
    assert dropped["kept"] == 20 and dropped["reasons"] == {"too_long": 2}
    table = decode_table((tmp_path / "drop" / "rejected" / "range-00000.parquet").read_bytes())
    assert table["line"].to_pylist() == [1, 2]


@pytest.mark.parametrize("fields", [{"response": "answer"}, {}])
def test_field_names_are_mapped_or_the_job_says_what_is_wrong(
    ray_session: None, tmp_path: Path, fields: dict[str, str]
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "answer": "b"}\n' * 3)
    source = {"path": "rows.jsonl", "format": "prompt_response", "fields": fields}
    data = {"root": str(tmp_path), "sources": [source], "duplicates": "keep"}
    if fields:
        assert dataset_of(tmp_path / "root", data).manifest.counts["kept"] == 3
        return
    with pytest.raises(S2LError, match=r"none of 3 rows .*missing_field.*fields"):
        dataset_of(tmp_path / "root", data)
