"""The text of a job file, read back."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from s2l_ray.config.load import load_config, make_config
from s2l_ray.config.template import job_text

SMALL = {"architecture": "gpt_neox", "hidden_size": 64, "num_hidden_layers": 2}


def job(**changes: Any) -> dict[str, Any]:
    """Values as `s2l init` infers them. Changes are dotted keys with `__` for the dot."""
    values: dict[str, Any] = {
        "root": "runs/rows",
        "run": "rows",
        "data": {
            "root": "/data",
            "sources": [{"path": "rows.jsonl", "format": "alpaca", "source": {"field": "source"}}],
            "tokenizer": {"train": {"vocab_size": 2048}},
            "max_length": 512,
            "shard_size": 64,
        },
        "proxy": {
            "model": SMALL,
            "epochs": 3,
            "learning_rate": 2e-3,
            "batch_size": 32,
            "precision": "float32",
            "checkpoints": {"fraction": 0.1},
        },
        "cluster": {"k": 20, "group_by": "source"},
        "select": {"method": "s2l", "budget": "10%"},
    }
    for name, value in changes.items():
        *sections, last = name.split("__")
        section = values
        for part in sections:
            section = section[part]
        section[last] = value
    return values


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"proxy__model": "EleutherAI/pythia-70m-deduped", "data__tokenizer": "EleutherAI/pythia-70m-deduped"},
        {"proxy__learning_rate": 2e-5, "proxy__checkpoints": {"steps": 500}},
        {"proxy__learning_rate": 0.25, "proxy__checkpoints": {"epoch_ends": True}},
        {"root": "s3://bucket/path", "data__sources": [{"hub": "a/b", "split": "train"}, {"path": "c/"}]},
        {"data__sources": [{"path": "rows", "only": {"set": ["a", "7", "yes"]}, "fields": {"prompt": "the: text"}}]},
        {"select__method": "random", "select__budget": 30_000, "cluster__group_by": "none"},
        {"data__root": "/a folder, with {marks}: # and 'quotes'", "root": "- x"},
        {"data__root": "null", "root": "1e3"},
    ],
)
def test_the_text_is_read_back_as_the_same_job(tmp_path: Path, changes: dict[str, Any]) -> None:
    values, path = job(**changes), tmp_path / "job.yaml"
    path.write_text(job_text(values, "title", str(path)), encoding="utf-8")
    expected = make_config(values, "test")
    assert load_config(path) == expected


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@example("=")
def test_any_string_is_quoted_where_necessary(text: str) -> None:
    source = {"path": text, "only": {text: [text]}}
    read = yaml.safe_load(job_text(job(data__root=text, data__sources=[source]), "title", "file"))
    assert read["data"]["root"] == text
    assert read["data"]["sources"] == [source]


@given(st.floats(min_value=1e-12, max_value=1e3).map(lambda value: float(f"{value:.1e}")))
def test_a_learning_rate_stays_a_number(rate: float) -> None:
    assert yaml.safe_load(job_text(job(proxy__learning_rate=rate), "t", "f"))["proxy"]["learning_rate"] == rate
