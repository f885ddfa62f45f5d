"""Job files and overrides: values that are accepted, and errors that name the key."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from s2l_ray.config.load import known_keys, load_config, make_config
from s2l_ray.config.sections import Config
from s2l_ray.errors import ConfigError


def minimal_job() -> dict[str, Any]:
    return {
        "root": "runs",
        "run": "test",
        "data": {"sources": [{"path": "a.jsonl"}, {"path": "b.jsonl"}], "tokenizer": "gpt2"},
        "proxy": {"model": "gpt2"},
        "select": {"budget": 100},
    }


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(minimal_job()))
    return path


def value_of(config: Config, key: str) -> object:
    value: Any = config
    for part in key.split("."):
        value = value[int(part)] if part.isdigit() else getattr(value, part)
    return value


def test_a_job_file_equals_its_values(job: Path) -> None:
    assert load_config(job) == make_config(minimal_job(), "test")


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("select.budget=10%", "10%"),
        ("select.budget=7", 7),
        ("proxy.learning_rate=3e-5", 3e-5),
        ("proxy.learning_rate=1", 1.0),
        ("cluster.k=3", 3),
        ("score.checkpoints=[0, 10]", [0, 10]),
        ("resources.score.workers=2", 2),
        ("resources.train.threads=2", 2),
        ("data.sources.1.path=c.jsonl", "c.jsonl"),
        ("data.root=/data=1", "/data=1"),
    ],
)
def test_an_override_replaces_one_value(job: Path, override: str, value: object) -> None:
    key = override.partition("=")[0]
    config, before = load_config(job, [override]), load_config(job)
    assert value_of(config, key) == value != value_of(before, key)
    assert load_config(job, [override, override]) == config


def test_the_last_of_several_overrides_counts(job: Path) -> None:
    config = load_config(job, ["cluster.k=3", "select.budget=5", "cluster.k=4"])
    assert (config.cluster.k, config.select.budget) == (4, 5)


def test_an_override_of_a_whole_source(job: Path) -> None:
    config = load_config(job, ["data.sources.0={hub: a/b, split: train}"])
    assert [(one.hub, one.path) for one in config.data.sources] == [("a/b", None), (None, "b.jsonl")]


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("select.bugdet=5", "budget"),
        ("proxy.learning_rat=1", "learning_rate"),
        ("resources.score.worker=1", "workers"),
        ("data.sources.1.formt=alpaca", "format"),
        ("clusters.k=3", "cluster"),
        ("resources.score.zzz=1", "cache_gb"),  # without a similar key, all keys of the section
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(job: Path, override: str, named: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(ConfigError) as caught:
        load_config(job, [override])
    assert key.removesuffix(".k") in str(caught.value)
    assert named in str(caught.value).replace(key, "")


@pytest.mark.parametrize(
    "override",
    [
        "select.budget=-5",
        "select.budget=0%",
        "select.budget=101%",
        "cluster.k=0",
        "cluster.k=many",
        "proxy.checkpoints={}",
        "data.sources=[]",
        "run=a b",
    ],
)
def test_an_invalid_value_is_refused_by_its_key(job: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        load_config(job, [override])


@pytest.mark.parametrize(
    "override", ["select", "=5", "data.sources.7.path=x", "run.name=x", "select.budget={", "a.b.c=1"]
)
def test_an_override_that_cannot_be_applied_is_refused(job: Path, override: str) -> None:
    with pytest.raises(ConfigError):
        load_config(job, [override])


def test_a_missing_key_is_named() -> None:
    values = minimal_job()
    del values["proxy"]["model"]
    with pytest.raises(ConfigError, match=r"origin.*proxy\.model"):
        make_config(values, "origin")


def test_every_error_is_reported_at_once(job: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(job, ["cluster.k=0", "proxy.epochs=0"])
    assert "cluster.k" in str(caught.value) and "proxy.epochs" in str(caught.value)


@pytest.mark.parametrize("content", [b"root: [", b"just text", b"- a\n- b\n", b"", b"run: \xff\xfe"])
def test_a_file_that_is_no_job_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_config(path)


def test_a_missing_file_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")


def test_known_keys_of_sections() -> None:
    assert set(known_keys([])) == set(Config.model_fields)
    assert {"path", "hub", "split"} <= set(known_keys(["data", "sources", 0]))
    assert "workers" in known_keys(["resources", "train"])


@pytest.mark.parametrize(
    ("checkpoints_from", "message"),
    [
        ([{"pth": "a", "step": 0}], "proxy.checkpoints_from.0.pth: unknown key; did you mean path?"),
        ([{"path": "a"}], "proxy.checkpoints_from.0.step: missing"),
        (5, "proxy.checkpoints_from: "),
    ],
)
def test_a_key_in_one_of_several_alternatives_is_named_as_written(checkpoints_from: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config({**minimal_job(), "proxy": {"checkpoints_from": checkpoints_from}}, "job")
    assert str(caught.value).startswith(f"job: {message}") and "\n" not in str(caught.value)
