"""Chats in prepare: every row is accounted for, and the same bytes on every day and for every cut into ranges."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2l_ray.artifacts.facts import DatasetFacts, SubsetFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.catalog.export.chosen import Choice
from s2l_ray.catalog.export.export import export_subset
from s2l_ray.config.load import make_config
from s2l_ray.config.sections import Config
from s2l_ray.core.data.tokenization import load_tokenizer
from s2l_ray.errors import S2LError
from tests.support.chat_tokenizers import chat_tokenizer
from tests.support.local_build import build_locally

Row = dict[str, Any]


def turn(role: str, content: object, **others: object) -> Row:
    return {"role": role, "content": content, **others}


def chat(number: int, answers: int = 1) -> Row:
    turns = []
    for step in range(answers):
        turns += [turn("user", f"{number} plus {step}?"), turn("assistant", f"It is {number + step}.")]
    return {"messages": turns}


def config_of(folder: Path, rows: list[Row], template: str, **data: Any) -> Config:
    """A job over the rows, with the tokenizer of a template."""
    chat_tokenizer(template, folder / "tokenizer")
    if not (folder / "rows.parquet").exists():
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": "rows.parquet" if (folder / "rows.parquet").exists() else "rows.jsonl"}
    return make_config(
        {
            "root": str(folder / "root"),
            "run": "chats",
            "data": {"root": str(folder), "sources": [source], "tokenizer": "tokenizer", **data},
            "proxy": {"model": {"architecture": "gpt_neox"}},
            "select": {"method": "random", "budget": "100%"},
        },
        "test",
    )


def prepared(folder: Path, rows: list[Row], template: str, **data: Any) -> Artifact:
    """The dataset, after a check that each row read is kept or rejected and that keys of examples are unique."""
    dataset = build_locally(config_of(folder, rows, template, **data), "dataset")
    counts, facts = dataset.manifest.counts, dataset.facts(DatasetFacts)
    assert counts.read == len(rows) == counts.kept + sum(counts.rejected.values())
    ids = dataset.read_table(["example_id"])["example_id"].to_pylist() if dataset.shards() else []
    assert len(set(ids)) == len(ids) == sum(facts.statuses.values())
    return dataset


def learned(dataset: Artifact) -> list[list[str]]:
    """The learned texts of each example."""
    with dataset.hold("tokenizer/") as local:
        tokenizer = load_tokenizer(str(local / "tokenizer"))
    return [
        [
            tokenizer.decode(row["input_ids"][start:end])
            for start, end in zip(*[iter(row["target_spans"])] * 2, strict=True)
        ]
        for shard in range(len(dataset.shards()))
        for row in dataset.read_shard(shard).to_pylist()
    ]


def test_a_source_that_renders_whole_has_one_example_a_chat(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, [chat(1), chat(2, 3)], "chatml")
    assert learned(dataset) == [["It is 1.<|im_end|>"], [f"It is {n}.<|im_end|>" for n in (2, 3, 4)]]
    assert dataset.facts(DatasetFacts).chats == {"rows": "whole"}


def test_answers_that_a_template_rewrites_are_examples(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, [chat(1), chat(2, 3)], "adds_thought", shard_size=1)
    frame = "<think>\n\n</think>\n\nIt is {}.<|im_end|>"
    assert learned(dataset) == [[frame.format(number)] for number in (1, 2, 3, 4)]
    assert dataset.facts(DatasetFacts).chats == {"rows": "per_answer"}
    assert [len(dataset.read_shard(shard)) for shard in range(2)] == [1, 3]
    text = dataset.read_file("text/shard-00001.parquet")
    assert text["answer"].to_pylist() == [0, 1, 2]
    assert text["response"].to_pylist() == ["It is 2.", "It is 3.", "It is 4."]
    assert "It is 2." in text["prompt"].to_pylist()[1]


def test_the_job_decides_how_chats_are_cut(tmp_path: Path) -> None:
    apart = prepared(tmp_path / "apart", [chat(1), chat(2, 3)], "chatml", chat="per_answer")
    assert learned(apart) == [[f"It is {number}.<|im_end|>"] for number in (1, 2, 3, 4)]
    whole = prepared(tmp_path / "whole", [chat(1), chat(2, 3)], "adds_thought", chat="whole")
    ((reason, rows),) = whole.manifest.counts.rejected.items()
    assert reason.startswith("template: ") and rows == 1


def test_each_selected_row_is_exported_once(tmp_path: Path) -> None:
    rows = [chat(1), chat(2, 3), chat(3, 2)]
    config = config_of(tmp_path, rows, "adds_thought")
    subset = build_locally(config)
    assert subset.facts(SubsetFacts).budget == 6
    exported = export_subset(subset, str(tmp_path / "rows.jsonl.gz"))
    assert exported.rows == 3
    export_subset(subset, str(tmp_path / "out.jsonl"))
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == rows


def test_selected_answers_are_exported_as_chats_that_learn_only_them(tmp_path: Path) -> None:
    rows = [chat(1), chat(2, 3), chat(3, 2)]
    subset = build_locally(config_of(tmp_path, rows, "adds_thought"))
    exported = export_subset(subset, str(tmp_path / "out.jsonl"), choice=Choice(answers=True))
    assert exported.rows == 6
    again = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert again[0] == rows[0]
    dataset = prepared(tmp_path / "again", again, "adds_thought")
    assert learned(dataset) == learned(subset.input("dataset"))


def test_a_row_is_rejected_if_all_its_answers_are_too_long(tmp_path: Path) -> None:
    rows = [chat(1, 1), chat(2, 9), {"messages": [turn("user", "?" * 400), turn("assistant", "no")]}]
    dataset = prepared(tmp_path, rows, "adds_thought", max_length=120, too_long="drop")
    assert dataset.manifest.counts.rejected == {"too_long": 1}
    assert 2 < len(learned(dataset)) < 10


def test_refusals_are_counted_by_message_and_reported(tmp_path: Path) -> None:
    rows = [chat(1), {"messages": [turn("system", "x"), *chat(2)["messages"]]}, *map(chat, range(3, 30))]
    rows += [{"messages": [turn("user", "a"), *chat(n)["messages"]]} for n in range(2)]
    dataset = prepared(tmp_path, rows, "strict")
    assert dataset.manifest.counts.rejected == {"template: no system turn here": 1, "template: turns must alternate": 2}
    (warning,) = dataset.facts(DatasetFacts).warnings
    assert "turns must alternate" in warning and "2 of 31" in warning


def test_text_that_nothing_reads_is_named(tmp_path: Path) -> None:
    rows = [{**chat(n), "notes": "a text of several parts", "kind": "open qa"} for n in range(4)]
    rows[0]["messages"][1]["thinking"] = "Count on from there."
    facts = prepared(tmp_path, rows, "chatml").facts(DatasetFacts)
    assert facts.unread_columns == {"notes": 4}
    assert facts.reasoning_not_learned == 1
    assert len(facts.warnings) == 2


def test_calls_in_parquet_have_no_keys_of_other_rows(tmp_path: Path) -> None:
    def call(name: str, **arguments: object) -> Row:
        calls = [{"type": "function", "function": {"name": name, "arguments": arguments}}]
        return {"messages": [turn("user", name), turn("assistant", None, tool_calls=calls)]}

    rows = [call("add", a=2, b=3), call("root", x=4.0)]
    tmp_path.joinpath("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    dataset = prepared(tmp_path, rows, "tools")
    assert learned(dataset) == [
        ['<tool_call>{"name": "add", "arguments": {"a": 2, "b": 3}}</tool_call><|im_end|>'],
        ['<tool_call>{"name": "root", "arguments": {"x": 4.0}}</tool_call><|im_end|>'],
    ]


@pytest.mark.parametrize(("data", "date"), [({}, "01 Jan 2024"), ({"date": "2026-02-03"}, "03 Feb 2026")])
def test_templates_see_the_date_of_the_job(tmp_path: Path, data: Row, date: str) -> None:
    dataset = prepared(tmp_path, [chat(1)], "dated", **data)
    with dataset.hold("tokenizer/") as local:
        (row,) = dataset.read_shard(0).to_pylist()
        assert f"Today is {date}." in load_tokenizer(str(local / "tokenizer")).decode(row["input_ids"])


def test_shards_do_not_depend_on_ranges(tmp_path: Path) -> None:
    rows = [chat(number, 1 + number % 3) for number in range(40)]
    one = prepared(tmp_path / "one", rows, "adds_thought", shard_size=8)
    config = config_of(tmp_path / "many", rows, "adds_thought", shard_size=8)
    values = {**config.model_dump(mode="json"), "resources": {"prepare": {"range_bytes": 900}}}
    many = build_locally(make_config(values, "test"), "dataset")
    assert one.shards() == many.shards() and one.shards("text/") == many.shards("text/")


def test_chats_need_a_chat_template(tmp_path: Path) -> None:
    config = config_of(tmp_path, [chat(1)], "chatml", tokenizer={"train": {"vocab_size": 400}})
    with pytest.raises(S2LError, match="chat template"):
        build_locally(config, "dataset")
