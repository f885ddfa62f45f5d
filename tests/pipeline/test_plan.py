"""Plans: which artifacts a changed key rebuilds, and why."""

from pathlib import Path

import pytest

from s2l_ray.artifacts.runs import record_run
from s2l_ray.config.load import load_config
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.plan import plan
from tests.support.jobs import small_job


def built_by_a_run(job: Path, *overrides: str) -> list[str]:
    return [step.kind for step in plan(load_config(job, overrides)).missing]


@pytest.mark.parametrize(
    ("override", "rebuilt"),
    [
        ("select.budget=30", ["subset"]),
        ("select.seed=1", ["subset"]),
        ("select.min_cluster_size=5", ["subset"]),
        ("cluster.k=5", ["clusters", "subset"]),
        ("score.dtype=bfloat16", ["trajectories", "clusters", "subset"]),
        ("proxy.epochs=1", ["checkpoints", "trajectories", "clusters", "subset"]),
        ("data.max_length=90", ["dataset", "checkpoints", "trajectories", "clusters", "subset"]),
    ],
)
def test_a_changed_key_rebuilds_what_depends_on_it(finished: Path, override: str, rebuilt: list[str]) -> None:
    assert built_by_a_run(finished, override) == rebuilt


def test_the_reason_is_the_changed_key(finished: Path) -> None:
    config = load_config(finished, ["run=reasons"])
    record_run(config.root, config.run, plan(config).fingerprints, {})
    changed = plan(load_config(finished, ["run=reasons", "cluster.k=5"]))
    (reason,) = changed["clusters"].reasons
    assert "cluster.k" in reason and "4" in reason and "5" in reason
    (reason,) = changed["subset"].reasons
    assert "clusters" in reason


def test_resources_addresses_and_keys_of_other_methods_are_not_identity(finished: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.symlink_to(finished.parent / "demo")
    overrides = [
        "resources.score.tokens_per_batch=99",
        "resources.score.allow_failures=7",
        "resources.train.workers=2",
        "resources.cluster.backend=cuml",
        f"data.root={moved}",
    ]
    assert built_by_a_run(finished, *overrides) == []
    random = plan(load_config(finished, ["select.method=random"])).fingerprints
    assert plan(load_config(finished, ["select.method=random", "select.min_cluster_size=9"])).fingerprints == random


def test_rebuild_includes_everything_that_depends_on_the_kind(finished: Path) -> None:
    planned = plan(load_config(finished), rebuild="trajectories")
    assert [step.kind for step in planned.missing] == ["trajectories", "clusters", "subset"]
    assert planned.fingerprints == plan(load_config(finished)).fingerprints


@pytest.mark.parametrize("arguments", [{"to": "picture"}, {"rebuild": "picture"}])
def test_an_unknown_kind_is_refused(tmp_path: Path, arguments: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="picture"):
        plan(load_config(small_job(tmp_path, rows=50)), **arguments)


def test_a_new_job_builds_everything_and_a_plan_ends_at_the_wanted_kind(tmp_path: Path) -> None:
    config = load_config(small_job(tmp_path, rows=50))
    assert [step.kind for step in plan(config, "checkpoints").missing] == ["dataset", "checkpoints"]
    assert not Path(config.root).exists(), "a plan writes nothing"
