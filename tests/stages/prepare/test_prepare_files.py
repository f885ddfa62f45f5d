"""Files in prepare: what a folder holds is a row, a rejected row, or named; equal bytes on every day."""

import csv
import datetime
import json
import sys
import time
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2l_ray.artifacts.facts import DatasetFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.config.load import make_config
from s2l_ray.config.row_summary import summarise_sources
from s2l_ray.config.sections import Config
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.run import run
from tests.support.chat_tokenizers import chat_tokenizer
from tests.support.local_build import build_locally

Row = dict[str, Any]


def pair(number: int) -> Row:
    return {"instruction": f"Add 1 to {number}.", "output": f"It is {number + 1}."}


def config_of(folder: Path, source: Row, tokenizer: object = None, root: str = "root", **prepare: Any) -> Config:
    data = {"root": str(folder), "sources": [source], "tokenizer": tokenizer or {"train": {"vocab_size": 400}}}
    return make_config(
        {
            "root": str(folder / root),
            "run": "files",
            "data": {**data, "shard_size": 8},
            "proxy": {"model": {"architecture": "gpt_neox"}},
            "select": {"budget": 1},
            "resources": {"prepare": prepare},
        },
        "test",
    )


def rows_of(dataset: Artifact) -> list[Row]:
    return [row for shard in range(len(dataset.shards())) for row in dataset.read_shard(shard).to_pylist()]


def test_a_folder_of_many_forms_is_read_whole(tmp_path: Path) -> None:
    """As written by Spark, with a CSV file whose cells are text, and a partition that names the source."""
    pool = tmp_path / "pool"
    for name in ("_temporary/0", "lang=en", "lang=fr"):
        (pool / name).mkdir(parents=True)
    (pool / "_SUCCESS").touch()
    (pool / "_temporary/0/part-1.jsonl").write_text(json.dumps(pair(90)))
    (pool / "notes.txt").write_text("nothing")
    (pool / "lang=en/part-0.jsonl").write_text("".join(json.dumps(pair(n)) + "\r" for n in range(4)))
    with (pool / "lang=fr/part-1.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["instruction", "output"])
        writer.writeheader()
        writer.writerows(pair(n) for n in range(4, 7))
        file.write("one cell\n")
    source = {"path": "pool", "source": {"field": "lang"}}
    dataset = build_locally(config_of(tmp_path, source), "dataset")
    counts, facts = dataset.manifest.counts, dataset.facts(DatasetFacts)
    assert (counts.read, counts.kept, counts.rejected) == (8, 7, {"undecodable": 1})
    assert facts.by_source == {"en": 4, "fr": 3}
    assert [json.loads(row["raw"]) for row in rows_of(dataset)] == [pair(n) for n in range(7)]
    assert [row["line"] for row in rows_of(dataset)] == [1, 2, 3, 4, 2, 3, 4]
    named = "\n".join(facts.warnings)
    assert all(name in named for name in ("_SUCCESS", "_temporary/", "notes.txt"))
    only = build_locally(config_of(tmp_path, {**source, "only": {"lang": "fr"}}, root="other"), "dataset")
    assert only.manifest.counts.rejected == {"filtered": 4, "undecodable": 1}


def test_columns_that_python_cannot_represent_are_named_once(tmp_path: Path) -> None:
    far = pa.array([1 << 30] * 12, pa.int32()).cast(pa.date32())
    table = pa.table({**{name: [pair(n)[name] for n in range(12)] for name in pair(0)}, "due": far})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=3)
    config = config_of(tmp_path, {"path": "rows.parquet"})
    (summary,) = summarise_sources(config)
    assert summary.converted == {"due": 12}
    dataset = build_locally(config, "dataset")
    assert dataset.manifest.counts.kept == 12
    assert sum("due" in line and "12 rows" in line for line in dataset.facts(DatasetFacts).warnings) == 1
    assert {type(json.loads(row["raw"])["due"]) for row in rows_of(dataset)} == {str}


def test_a_run_names_the_key_that_maps_a_column(tmp_path: Path) -> None:
    rows = [{**pair(n), "notes": "a part of the prompt"} for n in range(10)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (line,) = build_locally(config_of(tmp_path, {"path": "rows.jsonl"}), "dataset").facts(DatasetFacts).warnings
    assert "fields: {input: notes}" in line and "100 %" in line


def test_a_folder_with_a_test_split_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    for split in ("train", "test"):
        (tmp_path / "pool" / f"{split}.jsonl").write_text("".join(json.dumps(pair(n)) + "\n" for n in range(5)))
    with pytest.raises(ConfigError, match="split:"):
        summarise_sources(config_of(tmp_path, {"path": "pool"}))
    dataset = build_locally(config_of(tmp_path, {"path": "pool", "split": "train"}), "dataset")
    assert dataset.manifest.counts.read == 5


DAYS = datetime.timedelta(days=400)


class LaterDate(datetime.date):
    """Dates whose today is later."""

    @classmethod
    def today(cls) -> Self:
        return super().today() + DAYS


class LaterTime(datetime.datetime):
    """Times whose now is later."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Self:
        return super().now(tz) + DAYS


def move_clock(patch: pytest.MonkeyPatch) -> None:
    """Move every clock that the modules of this process read."""
    original, seconds = {"date": datetime.date, "datetime": datetime.datetime}, DAYS.total_seconds()
    later = {"date": LaterDate, "datetime": LaterTime}
    for module in [datetime, *sys.modules.values()]:
        for name, kind in original.items():
            if getattr(module, "__dict__", {}).get(name) is kind and module.__name__ != __name__:
                patch.setattr(module, name, later[name])
    now, local, text = time.time, time.localtime, time.strftime
    patch.setattr(time, "time", lambda: now() + seconds)
    patch.setattr(time, "localtime", lambda at=None: local(now() + seconds if at is None else at))
    patch.setattr(time, "strftime", lambda form, at=None: text(form, at or local(now() + seconds)))


@pytest.mark.long
def test_a_dataset_is_the_same_on_another_day_and_with_two_workers(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat_tokenizer("dated", tmp_path / "tokenizer")
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"It is {n}."}]}
        for n in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": "rows.jsonl"}
    today = run(config_of(tmp_path, source, "tokenizer", "today", workers=2, range_bytes=900), to="dataset")
    with monkeypatch.context() as patch:
        move_clock(patch)
        assert datetime.date.today().year > time.gmtime().tm_year
        later = build_locally(config_of(tmp_path, source, "tokenizer", "later", workers=1), "dataset")
    assert today.manifest.fingerprint == later.manifest.fingerprint
    assert today.manifest.files == later.manifest.files
