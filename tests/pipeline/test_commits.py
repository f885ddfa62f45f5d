"""Revisions of the hub in a plan: resolved once, part of the identity, recorded with the run."""

from pathlib import Path
from typing import Any

import pytest

from s2l_ray.artifacts.runs import last_commits, record_run
from s2l_ray.config.load import make_config
from s2l_ray.config.sections import Config
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.plan import Plan, plan
from s2l_ray.pipeline.run import check_plan
from tests.support.hub_server import Hub, running_hub

FILES = {"config.json": b"{}"}
ALL = (
    "datasets/owner/rows",
    "datasets/owner/task",
    "models/owner/tokenizer",
    "models/owner/proxy",
    "models/owner/target",
)


def job(root: Path, **changes: Any) -> Config:
    values: dict[str, Any] = {
        "root": str(root),
        "run": "hub",
        "data": {"sources": [{"hub": "owner/rows", "split": "train"}], "tokenizer": "owner/tokenizer"},
        "proxy": {"model": "owner/proxy", "train_on": {"hub": "owner/task", "split": "train"}},
        "target": {"model": "owner/target"},
        "cluster": {"k": 2},
        "select": {"budget": 2},
    }
    return make_config(
        {key: {**value, **changes.get(key, {})} if isinstance(value, dict) else value for key, value in values.items()},
        "test",
    )


def push_all(hub: Hub) -> dict[str, str]:
    return {name: hub.push(name, FILES) for name in ALL}


def states(planned: Plan) -> dict[str, str]:
    return {step.kind: step.state for step in planned.steps}


def changed(one: Plan, other: Plan) -> list[str]:
    return [kind for kind, name in one.fingerprints.items() if other.fingerprints[kind] != name]


def test_every_revision_becomes_its_commit(tmp_path: Path, hub: Hub) -> None:
    commits = push_all(hub)
    config = plan(job(tmp_path), "target").config
    assert config.data.sources[0].revision == commits["datasets/owner/rows"]
    assert config.data.tokenizer_revision == commits["models/owner/tokenizer"]
    assert config.proxy.revision == commits["models/owner/proxy"]
    assert config.proxy.train_on is not None and config.proxy.train_on.revision == commits["datasets/owner/task"]
    assert config.target.revision == commits["models/owner/target"]


def test_a_new_commit_is_another_artifact(tmp_path: Path, hub: Hub) -> None:
    push_all(hub)
    before = plan(job(tmp_path), "target")
    assert not changed(before, plan(job(tmp_path), "target"))
    for name, first in (("models/owner/target", "target"), ("models/owner/proxy", "checkpoints"), (ALL[0], "dataset")):
        hub.push(name, {"config.json": b"[]"})
        after = plan(job(tmp_path), "target")
        assert changed(before, after)[0] == first
        before = after


def test_only_what_is_built_is_looked_up(tmp_path: Path, hub: Hub) -> None:
    for name in ("datasets/owner/rows", "models/owner/tokenizer"):
        hub.push(name, FILES)
    assert states(plan(job(tmp_path), "dataset")) == {"dataset": "missing"}
    with pytest.raises(ConfigError, match=r"proxy\.model.*owner/proxy"):
        plan(job(tmp_path, proxy={"train_on": None}), "checkpoints")


def test_a_gated_model_is_reported_by_its_key(tmp_path: Path, hub: Hub) -> None:
    push_all(hub)
    hub.push("models/owner/proxy", FILES, gated=True)
    with pytest.raises(ConfigError, match=r"proxy\.model.*gated.*HF_TOKEN"):
        plan(job(tmp_path))


def test_a_commit_is_not_looked_up(tmp_path: Path) -> None:
    """Without a network."""
    source = {"sources": [{"hub": "owner/rows", "revision": "0" * 40}], "tokenizer_revision": "1" * 40}
    assert states(plan(job(tmp_path, data=source), "dataset")) == {"dataset": "missing"}


def test_without_a_network_the_commits_of_the_last_run_are_used(tmp_path: Path, hub_port: int) -> None:
    with running_hub(hub_port) as hub:
        push_all(hub)
        planned = plan(job(tmp_path), "target")
    record_run(str(tmp_path), "hub", planned.fingerprints, {}, planned.commits)
    assert last_commits(str(tmp_path), "hub")["model owner/proxy@main"] == planned.config.proxy.revision
    assert not changed(planned, plan(job(tmp_path), "target"))
    other = plan(job(tmp_path, proxy={"revision": "v2"}), "target")
    assert [kind for kind, state in states(other).items() if state == "unresolved"] == [
        *("checkpoints", "trajectories", "clusters", "subset", "target")
    ]


def test_an_unknown_commit_is_unresolved_and_cannot_be_built(tmp_path: Path) -> None:
    planned = plan(job(tmp_path))
    assert set(states(planned).values()) == {"unresolved"}
    with pytest.raises(ConfigError, match="owner/rows"):
        check_plan(planned)


def test_commits_of_an_earlier_plan_are_not_looked_up_again(tmp_path: Path, hub: Hub) -> None:
    push_all(hub)
    before = plan(job(tmp_path), "target")
    for name in ALL:
        hub.push(name, {"config.json": b"[]"})
    assert not changed(before, plan(job(tmp_path), "target", commits=before.commits))
