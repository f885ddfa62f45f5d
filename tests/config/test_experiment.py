"""Experiment files: the job of every arm and seed."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from s2l_ray.config.experiment import Experiment, is_experiment, load_experiment
from s2l_ray.config.load import load_config
from s2l_ray.errors import ConfigError

JOB: dict[str, Any] = {
    "root": "runs",
    "run": "base",
    "data": {"sources": [{"path": "a.jsonl"}], "tokenizer": "gpt2"},
    "proxy": {"model": "gpt2"},
    "cluster": {"k": 7},
    "select": {"budget": 100},
}


def write(folder: Path, **keys: Any) -> Path:
    (folder / "job.yaml").write_text(yaml.safe_dump(JOB))
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump({"job": "job.yaml", **keys}, sort_keys=False))
    return path


def jobs(experiment: Experiment) -> dict[str, dict[str, Any]]:
    return {job.config.run: job.config.model_dump() for job in experiment.jobs}


def test_an_arm_is_the_job_with_overrides_and_seeds(tmp_path: Path) -> None:
    arms = {"s2l": {}, "random": {"select.method": "random"}, "small": {"cluster.k": 3, "cluster.seed": 9}}
    path = write(tmp_path, arms=arms, seeds=[0, 5], vary=["proxy.seed"])
    experiment = load_experiment(path)
    found = jobs(experiment)
    assert list(found) == [f"base.{arm}.{seed}" for arm in arms for seed in (0, 5)]
    for arm, changes in arms.items():
        for seed in (0, 5):
            seeds = dict.fromkeys(("select.seed", "cluster.seed", "target.seed", "proxy.seed"), seed)
            expected = [f"{key}={value}" for key, value in {**seeds, **changes, "run": f"base.{arm}.{seed}"}.items()]
            assert found[f"base.{arm}.{seed}"] == load_config(tmp_path / "job.yaml", expected).model_dump()
    assert [list(arms), experiment.run, set(experiment.varied)] == [
        list(experiment.arms),
        "base",
        {"select.seed", "cluster.seed", "target.seed", "proxy.seed"},
    ]
    assert is_experiment(path) and not is_experiment(tmp_path / "job.yaml")


def test_overrides_of_the_command_apply_to_the_job_or_to_the_experiment(tmp_path: Path) -> None:
    path = write(tmp_path, arms={"a": {}, "b": {"select.budget": 5}}, seeds=[0, 1])
    found = jobs(load_experiment(path, ["select.budget=7", "seeds=[3]", "root=other"]))
    assert {name: (job["select"]["budget"], job["root"]) for name, job in found.items()} == {
        "base.a.3": (7, "other"),
        "base.b.3": (5, "other"),
    }


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, "arms"),
        ({"arms": {}}, "arms"),
        ({"arms": {"a.b": {}}}, "a.b"),
        ({"arms": {"a": {}}, "seeds": []}, "seeds"),
        ({"arms": {"a": {}}, "seeds": [1, 1]}, "seeds"),
        ({"arms": {"a": {}}, "sedes": [1]}, "seeds"),
        ({"arms": {"a": {}}, "to": "gold"}, "to"),
        ({"arms": {"first": {}, "second": {"cluster.kk": 3}}}, "second.*cluster.kk"),
        ({"arms": {"a": {"select.method": "magic"}}}, "magic"),
        ({"arms": {"a": {"root.b": 1}}}, "root"),
        ({"arms": {"a": {}}, "vary": ["proxy.sede"]}, "proxy.sede"),
        ({"arms": {"a": {}}, "job": "none.yaml"}, "none.yaml"),
        ({"arms": {"a": {}}, "reference": "b"}, "reference.* b"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(tmp_path: Path, keys: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_experiment(write(tmp_path, **keys))
