"""Summaries of the first rows of a job's sources: rejected rows, unread columns and rendered chats."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2l_ray.config.load import make_config
from s2l_ray.config.row_summary import DataSummary, check_chat_template, frequent_rejections, summarise_sources
from s2l_ray.config.sections import Config
from s2l_ray.errors import ConfigError
from tests.support.chat_tokenizers import chat_tokenizer

Row = dict[str, Any]


def chat(*turns: str, **columns: object) -> Row:
    roles = ["user", "assistant"] * len(turns)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)], **columns}


def config_of(folder: Path, rows: list[Row], template: str | None = None, **source: Any) -> Config:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer: object = {"train": {"vocab_size": 400}}
    if template is not None:
        chat_tokenizer(template, folder / "tokenizer")
        tokenizer = "tokenizer"
    data = {"root": str(folder), "sources": [{"path": "rows.jsonl", **source}], "tokenizer": tokenizer}
    proxy = {"model": {"architecture": "gpt_neox"}}
    return make_config({"root": "r", "run": "r", "data": data, "proxy": proxy, "select": {"budget": 1}}, "test")


def summary_of(folder: Path, rows: list[Row], template: str | None = None, **source: Any) -> DataSummary:
    (summary,) = summarise_sources(config_of(folder, rows, template, **source))
    return summary


def test_refusals_of_the_template_are_counted_by_message(tmp_path: Path) -> None:
    system = {"role": "system", "content": "x"}
    rows = [chat("a", "b"), {"messages": [system, *chat("a", "b")["messages"]]}, {"other": 1}]
    summary = summary_of(tmp_path, rows, "strict")
    assert summary.rejected == {"template: no system turn here": 1, "missing_field": 1}
    assert summary.rows == 3 and summary.complete and summary.chat


def test_a_damaged_file_is_a_warning_whatever_its_share_of_the_rows(tmp_path: Path) -> None:
    rows = [{"prompt": str(n), "response": "b"} for n in range(50)]
    (tmp_path / "cut.json").write_text(json.dumps(rows)[:-20])
    rejected = summary_of(tmp_path, [], path="cut.json").rejected
    assert rejected == {"file_broken": 1}
    (line,) = frequent_rejections(rejected, 50)
    assert "file_broken" in line


def test_chats_that_do_not_render_whole_are_counted(tmp_path: Path) -> None:
    rows = [chat("a", "b"), chat("a", "b", "c", "d")]
    rows[0]["messages"][1]["reasoning"] = "because"
    summary = summary_of(tmp_path, rows, "adds_thought")
    assert (summary.rendered, summary.rewritten, summary.reasoning_lost) == (2, 1, 1)
    assert [len(sample.text.texts) for sample in summary.samples if sample.text] == [1, 2]
    plain = summary_of(tmp_path, rows)
    assert plain.rendered == 0 and [sample.text for sample in plain.samples] == [None, None]


def test_columns_with_text_that_nothing_reads_are_named(tmp_path: Path) -> None:
    long = "a text of several parts"
    rows = [
        {
            "instruction": f"{n}?",
            "output": "b",
            "notes": long,
            "kind": "open qa",
            "source": long,
            "once": long * (n < 1),
        }
        for n in range(20)
    ]
    summary = summary_of(tmp_path, rows, format="alpaca", source={"field": "source"})
    assert summary.unread_columns == {"notes": 20}
    mapped = summary_of(tmp_path, rows, format="alpaca", fields={"input": "notes"}, source={"field": "source"})
    assert mapped.unread_columns == {}


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("Math", "Math"),
        (" math\n", "math"),
        (3, "3"),
        (2.5, "2.5"),
        (True, "true"),
        (None, None),
        ("  ", None),
        ([1], None),
    ],
)
def test_values_of_the_source_column_are_names(tmp_path: Path, value: object, name: str) -> None:
    rows = [{"prompt": "a", "response": "b", "about": {"topic": value}}]
    summary = summary_of(tmp_path, rows, source={"field": "about.topic"})
    assert summary.values == ({name: 1} if name else {})
    assert summary.rejected == ({} if name else {"missing_field": 1})


def test_rows_are_filtered_by_nested_fields(tmp_path: Path) -> None:
    rows = [{"prompt": str(n), "response": "b", "about": {"level": n}} for n in range(4)]
    summary = summary_of(tmp_path, rows, only={"about.level": ["1", "2"]})
    assert summary.rejected == {"filtered": 2}


def test_chats_of_a_table_are_summarised_without_the_nulls_of_arrow(tmp_path: Path) -> None:
    rows = [chat("a", "b", "c", "d") for _ in range(2)]
    for row, arguments in zip(rows, ({"city": "Rome"}, {"day": 3}), strict=True):
        row["messages"][1]["tool_calls"] = [{"function": {"name": "find", "arguments": arguments}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    samples = [summary_of(tmp_path, rows, path=f"rows.{kind}").samples for kind in ("jsonl", "parquet")]
    assert [[one.example for one in found] for found in samples] == [[one.example for one in samples[0]]] * 2


def test_chats_without_a_template_are_refused(tmp_path: Path) -> None:
    for rows, template, refused in (
        ([chat("a", "b")], None, True),
        ([chat("a", "b")], "chatml", False),
        ([{"prompt": "a", "response": "b"}], None, False),
    ):
        config = config_of(tmp_path, rows, template)
        with pytest.raises(ConfigError, match="chat template") if refused else contextlib.nullcontext():
            check_chat_template(config, summarise_sources(config))
