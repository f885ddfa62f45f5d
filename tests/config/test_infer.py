"""Properties of rows and the job values that `s2l init` infers from them."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2l_ray.config import row_summary
from s2l_ray.config.infer import inspect_rows, job_values, named_template, run_name
from s2l_ray.config.load import make_config
from s2l_ray.config.row_summary import DataSummary, Sample
from s2l_ray.core.data.examples import FORMATS
from s2l_ray.errors import ConfigError
from s2l_ray.sources.spec import SourceSpec
from tests.support.chat_tokenizers import chat_tokenizer
from tests.support.hub_server import Hub

Rows = Sequence[object]


def alpaca(number: int, **more: object) -> dict[str, object]:
    return {"instruction": f"Question {number}?", "input": "", "output": f"Answer {number}.", **more}


def chat(number: int) -> dict[str, list[dict[str, str]]]:
    turns = [{"role": "user", "content": f"Hello {number}"}, {"role": "assistant", "content": "Good day."}]
    return {"messages": turns}


def write(path: Path, rows: Rows) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def test_a_file_is_split_into_root_and_source(tmp_path: Path) -> None:
    summary = inspect_rows(write(tmp_path / "My rows.jsonl", [alpaca(n) for n in range(5)]))
    assert (summary.root, summary.spec.path) == (str(tmp_path), "My rows.jsonl")
    assert (summary.rows, summary.complete, summary.format, summary.fields) == (5, True, "alpaca", {})
    assert [sample.line for sample in summary.samples] == [1, 2, 3]
    assert {sample.file for sample in summary.samples} == {"My rows.jsonl"}
    assert run_name(summary) == "My-rows"


def test_rows_of_all_files_of_a_folder_count(tmp_path: Path) -> None:
    write(tmp_path / "rows" / "a.jsonl", [alpaca(1), alpaca(2)])
    write(tmp_path / "rows" / "b.jsonl.gz", [alpaca(3)])
    pq.write_table(pa.Table.from_pylist([alpaca(4)]), tmp_path / "rows" / "c.parquet")
    summary = inspect_rows(f"{tmp_path}/rows/")
    assert (summary.rows, summary.spec.path) == (4, "rows")


def test_reading_stops_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in "ab":
        write(tmp_path / "rows" / f"{file}.jsonl", [alpaca(n) for n in range(4)])
    for limit, expected in ((3, (3, False)), (4, (4, False)), (7, (7, False)), (8, (8, True)), (9, (8, True))):
        monkeypatch.setattr(row_summary, "MAX_ROWS", limit)
        summary = inspect_rows(str(tmp_path / "rows"))
        assert (summary.rows, summary.complete) == expected


def test_rejected_rows_are_counted_by_reason(tmp_path: Path) -> None:
    rows = [alpaca(1), "{", "[1]", {"instruction": "no answer"}, {"instruction": "empty", "output": " "}, alpaca(2)]
    summary = inspect_rows(write(tmp_path / "rows.jsonl", rows))
    assert summary.rows == 6 and sum(summary.rejected.values()) == 4
    assert summary.rejected["undecodable"] == summary.rejected["not_an_object"] == 1
    assert summary.rejected["empty_response"] == 1


def test_fields_with_other_names_are_mapped(tmp_path: Path) -> None:
    rows = [{"question": f"{n}?", "answer": f"{n}."} for n in range(4)]
    summary = inspect_rows(write(tmp_path / "rows.jsonl", rows))
    assert (summary.format, summary.fields) == ("prompt_response", {"prompt": "question", "response": "answer"})
    (source,) = make_config(job_values(summary, None, None, False), "test").data.sources
    assert (source.path, source.format, source.fields) == ("rows.jsonl", summary.format, summary.fields)


def test_mixed_formats_are_left_to_each_row(tmp_path: Path) -> None:
    summary = inspect_rows(write(tmp_path / "rows.jsonl", [alpaca(1), {"question": "2?", "answer": "2."}]))
    assert (summary.format, summary.fields) == (None, {})


def test_sources_need_the_field_in_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [alpaca(n, source="ab"[n % 2]) for n in range(4)]
    named = inspect_rows(write(tmp_path / "named.jsonl", rows))
    assert named.sources == ["a", "b"]
    values = job_values(named, None, None, False)
    assert values["cluster"]["group_by"] == "source"
    assert values["data"]["sources"] == [{"path": "named.jsonl", "format": "alpaca", "source": {"field": "source"}}]
    for last in (alpaca(9), alpaca(9, source=" "), alpaca(9, source=None)):
        partial = inspect_rows(write(tmp_path / "partial.jsonl", [*rows, last]))
        assert partial.sources == []
        assert job_values(partial, None, None, False)["cluster"]["group_by"] == "none"
    monkeypatch.setattr(row_summary, "MAX_SOURCES", 1)
    assert inspect_rows(str(tmp_path / "named.jsonl")).sources == []


def test_chats_that_the_template_refuses_count_for_the_sources(tmp_path: Path) -> None:
    chat_tokenizer("strict", tmp_path / "tokenizer")
    system = {"role": "system", "content": "x"}
    rows = [{**chat(1), "source": "a"}, {"messages": [system, *chat(2)["messages"]]}]
    location = write(tmp_path / "rows.jsonl", rows)
    summary = inspect_rows(location, named_template(str(tmp_path / "tokenizer")))
    assert summary.rejected.total() == 1
    assert summary.sources == []


def test_max_length_covers_the_99th_percentile(tmp_path: Path) -> None:
    texts = [f"{n:<{3 * n}}" for n in range(200)]
    rows = [{"prompt": text, "response": "x"} for text in texts]
    summary = inspect_rows(write(tmp_path / "rows.jsonl", rows))
    lengths = sorted(len(row["prompt"]) + 1 for row in rows)
    assert sum(length <= summary.length_p99 for length in lengths) >= 0.99 * len(lengths)
    assert sum(length < summary.length_p99 for length in lengths) <= 0.99 * len(lengths)
    max_length = job_values(summary, None, None, False)["data"]["max_length"]
    assert max_length // 2 < summary.length_p99 / 3 <= max_length


def summary_of(rows: int, rejected: int = 0, length: int = 600) -> DataSummary:
    sample = Sample(FORMATS["alpaca"](alpaca(1), {}), "rows.jsonl", 1)
    summary = DataSummary("/data", SourceSpec("rows.jsonl"), rows, lengths=[length], samples=[sample])
    summary.guesses.add(("alpaca", ()))
    summary.values[None] = 1
    summary.rejected["undecodable"] = rejected
    return summary


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("model", [None, "some/model"])
@pytest.mark.parametrize("rows", [1, 40, 1_000, 100_000])
def test_values_are_a_valid_job_for_any_number_of_rows(rows: int, model: str | None, gpu: bool) -> None:
    config = make_config(job_values(summary_of(rows), model, None, gpu), "test")
    assert 1 <= config.proxy.batch_size <= max(1, rows)
    assert config.cluster.k <= max(2, rows)
    assert config.data.shard_size <= 8192
    assert config.proxy.precision == ("bfloat16" if gpu else "float32")
    if model is not None:
        assert config.proxy.model == config.data.tokenizer == model


def test_rejected_rows_do_not_count_for_the_defaults() -> None:
    assert job_values(summary_of(20_000, 19_000), None, None, False) == job_values(summary_of(1_000), None, None, False)


def test_a_tokenizer_can_differ_from_the_one_of_the_model() -> None:
    values = job_values(summary_of(100), "some/model", "some/tokenizer", False)
    assert (values["proxy"]["model"], values["data"]["tokenizer"]) == ("some/model", "some/tokenizer")


def test_chats_need_a_tokenizer_with_a_template(tmp_path: Path) -> None:
    summary = inspect_rows(write(tmp_path / "rows.jsonl", [chat(n) for n in range(3)]))
    assert summary.chat and summary.format == "messages"
    with pytest.raises(ConfigError, match="--tokenizer"):
        job_values(summary, None, None, False)
    assert job_values(summary, None, "some/chat", False)["data"]["tokenizer"] == "some/chat"
    assert job_values(summary, "some/model", None, False)["data"]["tokenizer"] == "some/model"


@pytest.mark.parametrize(
    ("rows", "named"), [([], r"rows\.jsonl"), (["{", "["], "undecodable"), ([{"a": 1, "b": "two"}], "a, b")]
)
def test_rows_without_an_example_are_refused(tmp_path: Path, rows: Rows, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        inspect_rows(write(tmp_path / "rows.jsonl", rows))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.jsonl"):
        inspect_rows(str(tmp_path / "none.jsonl"))


def test_a_data_set_of_the_hub(tmp_path: Path, hub: Hub) -> None:
    pytest.importorskip("datasets")
    write(tmp_path / "train.jsonl", [alpaca(n) for n in range(3)])
    hub.push_folder("datasets/owner/alpaca", tmp_path)
    summary = inspect_rows("hub:owner/alpaca")
    assert (summary.rows, summary.format) == (3, "alpaca")
    (source,) = make_config(job_values(summary, None, None, False), "test").data.sources
    assert (source.hub, source.path, source.split) == ("owner/alpaca", None, "train")
