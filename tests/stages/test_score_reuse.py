"""Growing pools: units that other trajectories hold are copied, and all others are scored."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.artifacts.execution import Execution, ScoreExecution
from s2l_ray.artifacts.facts import TrajectoriesFacts
from s2l_ray.artifacts.manifest import Artifact, open_artifact, write_manifest
from s2l_ray.artifacts.schemas import shard_path
from s2l_ray.catalog.verify import verify_artifact
from s2l_ray.pipeline.plan import plan
from s2l_ray.stages import score
from s2l_ray.stages.score_workers import ScoredUnit, ScoreUnit, ScoreWorker
from tests.support.local_build import build_locally
from tests.support.tiny_models import STEPS, imported_job, write_models, write_rows

OLD, NEW = {"path": "rows.jsonl"}, {"path": "more.jsonl"}
OLD_SHARDS, NEW_SHARDS = 3, 2


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_models(tmp_path_factory.mktemp("models"))
    write_rows(folder / "more.jsonl", 7, "Other")
    return folder


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the units that were really scored."""
    names: list[str] = []

    class Counted(ScoreWorker):
        def __call__(self, unit: ScoreUnit) -> ScoredUnit:
            names.append(unit.name)
            return super().__call__(unit)

    monkeypatch.setattr(score, "ScoreWorker", Counted)
    return names


def build(root: Path, models: Path, sources: list[dict[str, str]], **sections: Any) -> Artifact:
    return build_locally(imported_job(root, models, data={"sources": sources}, **sections), "trajectories")


def losses(artifact: Artifact) -> list[Any]:
    return artifact.read_table(["example_id", "losses"]).to_pylist()


@pytest.mark.parametrize(("sources", "first"), [([OLD, NEW], 0), ([NEW, OLD], NEW_SHARDS)])
def test_only_shards_of_an_added_source_are_scored(
    tmp_path: Path, models: Path, scored: list[str], sources: list[dict[str, str]], first: int
) -> None:
    before = build(tmp_path / "root", models, [OLD])
    assert len(scored) == OLD_SHARDS * len(STEPS)
    scored.clear()
    after = build(tmp_path / "root", models, sources)
    assert len(scored) == NEW_SHARDS * len(STEPS)
    assert after.facts(TrajectoriesFacts).reused == {before.manifest.fingerprint: OLD_SHARDS * len(STEPS)}
    assert verify_artifact(after.uri).faults == ()
    for shard in range(OLD_SHARDS):
        stored = Path(after.uri, shard_path(first + shard)).read_bytes()
        assert stored == Path(before.uri, shard_path(shard)).read_bytes()
    assert losses(after) == losses(build(tmp_path / "other", models, sources)), "as if scored at once"


def test_the_plan_reports_what_is_copied(tmp_path: Path, models: Path) -> None:
    before = build(tmp_path, models, [OLD])
    config = imported_job(tmp_path, models, data={"sources": [OLD, NEW]})
    build_locally(config, "dataset")
    reasons = " ".join(plan(config)["trajectories"].reasons)
    assert f"{OLD_SHARDS * len(STEPS)} of {(OLD_SHARDS + NEW_SHARDS) * len(STEPS)}" in reasons
    assert before.manifest.fingerprint in reasons


@pytest.mark.parametrize(
    "sections",
    [
        {"score": {"dtype": "bfloat16"}},
        {"score": {"statistics": ["loss", "el2n"]}},
        {"resources": {"score": {"attention": "padded"}}},
    ],
)
def test_units_with_other_options_are_scored(
    tmp_path: Path, models: Path, scored: list[str], sections: dict[str, Any]
) -> None:
    build(tmp_path, models, [OLD])
    scored.clear()
    after = build(tmp_path, models, [OLD, NEW], **sections)
    steps = len(after.facts(TrajectoriesFacts).steps)
    assert len(scored) == (OLD_SHARDS + NEW_SHARDS) * steps and not after.facts(TrajectoriesFacts).reused


def test_a_checkpoint_is_known_by_its_weights_and_not_by_its_step(
    tmp_path: Path, models: Path, scored: list[str]
) -> None:
    before = build(tmp_path, models, [OLD])
    scored.clear()
    after = build(tmp_path, models, [OLD], proxy={"checkpoints_from": [{"path": "step9", "step": 70}]})
    assert scored == [] and after.manifest.fingerprint != before.manifest.fingerprint
    assert [row["losses"][0] for row in losses(after)] == [row["losses"][2] for row in losses(before)]


def test_a_damaged_unit_is_scored_again(tmp_path: Path, models: Path, scored: list[str]) -> None:
    before = build(tmp_path, models, [OLD])
    scored.clear()
    unit = next(Path(before.uri, "losses").rglob("*.parquet"))
    unit.write_bytes(unit.read_bytes()[:-4] + b"damn")
    after = build(tmp_path, models, [OLD, NEW])
    assert len(scored) == NEW_SHARDS * len(STEPS) + 1
    assert verify_artifact(open_artifact(after.uri).uri).faults == ()


OTHER_TORCH = Execution(ScoreExecution(16384, "auto", 1, 0.0), {"torch": "0.1"})


@pytest.mark.parametrize("change", [{"version": 99}, {"execution": OTHER_TORCH}])
def test_units_of_another_version_are_scored_again(
    tmp_path: Path, models: Path, scored: list[str], change: dict[str, Any]
) -> None:
    before = build(tmp_path, models, [OLD])
    assert before.manifest.execution.settings == OTHER_TORCH.settings
    write_manifest(before.uri, replace(before.manifest, **change))
    scored.clear()
    build(tmp_path, models, [OLD, NEW])
    assert len(scored) == (OLD_SHARDS + NEW_SHARDS) * len(STEPS)
