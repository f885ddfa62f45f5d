"""Imports of checkpoints: what is copied, losses of imported models, and models that are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from s2l_ray.artifacts.facts import CheckpointsFacts
from s2l_ray.artifacts.manifest import drop, open_artifact
from s2l_ray.catalog.verify import verify_artifact
from s2l_ray.errors import ConfigError, S2LError
from s2l_ray.pipeline.plan import plan
from tests.support.hub_server import Hub
from tests.support.local_build import build_locally
from tests.support.tiny_models import STEPS, imported_job, save_checkpoint, save_tokenizer, write_models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


def test_losses_are_those_of_the_models_in_the_folders(tmp_path: Path, models: Path) -> None:
    config = imported_job(tmp_path, models)
    trajectories = build_locally(config, "trajectories")
    rows = open_artifact(plan(config)["dataset"].uri).read_table().to_pylist()
    losses = trajectories.read_table()["losses"].to_pylist()
    for column, step in enumerate(STEPS):
        model = AutoModelForCausalLM.from_pretrained(models / f"step{step}").eval()
        for row, loss in zip(rows, losses, strict=True):
            ids = torch.tensor([row["input_ids"]])
            labels = torch.full_like(ids, -100)
            start, end = row["target_spans"]
            labels[0, start:end] = ids[0, start:end]
            with torch.inference_mode():
                assert loss[column] == pytest.approx(float(model(input_ids=ids, labels=labels).loss), abs=1e-5)


def test_weights_config_and_tokenizer_are_copied_and_nothing_else(tmp_path: Path, models: Path) -> None:
    own = tmp_path / "models"
    shutil.copytree(models, own)
    (own / "step5" / "optimizer.pt").write_bytes(b"state")
    (own / "step5" / "trainer_state.json").write_text("{}")
    steps = [{"path": f"step{step}", "step": step} for step in reversed(STEPS)]
    config = imported_job(tmp_path / "root", own, steps)
    artifact = build_locally(config, "checkpoints")
    assert artifact.facts(CheckpointsFacts).steps == [*STEPS]
    shutil.rmtree(own / "step5")
    assert verify_artifact(artifact.uri).faults == ()
    for step in STEPS:
        expected = {path.name: path.read_bytes() for path in (models / f"step{step}").iterdir()}
        stored = {path.name: path.read_bytes() for path in Path(artifact.uri, f"step-{step:06d}").iterdir()}
        assert stored == expected


def test_another_pool_has_the_same_checkpoints_and_another_folder_has_not(tmp_path: Path, models: Path) -> None:
    before = plan(imported_job(tmp_path, models)).fingerprints
    longer = plan(imported_job(tmp_path, models, data={"sources": [{"path": "rows.jsonl"}] * 2})).fingerprints
    assert longer["checkpoints"] == before["checkpoints"] and longer["trajectories"] != before["trajectories"]
    other = [{"path": f"step{step}", "step": step} for step in (0, 5)]
    assert plan(imported_job(tmp_path, models, other)).fingerprints["checkpoints"] != before["checkpoints"]
    moved = [{"path": str(models / f"step{step}"), "step": step} for step in STEPS]
    assert plan(imported_job(tmp_path, models, moved)).fingerprints == before


def test_a_checkpoints_artifact_is_imported_by_its_uri(tmp_path: Path, models: Path) -> None:
    first = imported_job(tmp_path / "first", models)
    artifact = build_locally(first, "checkpoints")
    second = imported_job(tmp_path / "second", models, artifact.uri)
    assert build_locally(second, "checkpoints").manifest.facts == artifact.manifest.facts
    assert build_locally(second, "trajectories").read_table() == build_locally(first, "trajectories").read_table()
    weights = [file.path for file in artifact.files() if file.path.endswith(".safetensors")]
    drop(artifact.uri, weights[:1])
    with pytest.raises(ConfigError, match="step 0"):
        plan(second)
    with pytest.raises(ConfigError, match="checkpoints artifact"):
        plan(imported_job(tmp_path / "third", models, plan(first)["dataset"].uri))


def test_revisions_of_the_hub_are_imported_at_their_commits(tmp_path: Path, models: Path, hub: Hub) -> None:
    for step in STEPS:
        hub.push_folder("models/owner/tiny", models / f"step{step}", branch=f"step{step}")
    named = [{"hub": "owner/tiny", "revision": f"step{step}", "step": step} for step in STEPS]
    artifact = build_locally(imported_job(tmp_path / "root", models, named), "checkpoints")
    commits = [reference[0][1] for _, reference in artifact.manifest.identity["proxy"]["checkpoints_from"]]
    assert commits == [hub.repositories["models/owner/tiny"].branches[f"step{step}"] for step in STEPS]
    for step in STEPS:
        stored = Path(artifact.uri, f"step-{step:06d}", "model.safetensors")
        assert stored.read_bytes() == (models / f"step{step}" / "model.safetensors").read_bytes()
        assert not stored.is_symlink()


def test_a_folder_without_safetensors_is_refused_by_the_plan(tmp_path: Path, models: Path) -> None:
    shutil.copytree(models / "step0", tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    for path in (tmp_path / "pickled", tmp_path / "missing"):
        with pytest.raises(ConfigError, match=path.name):
            plan(imported_job(tmp_path / "root", models, [{"path": str(path), "step": 0}]))


def test_weights_that_do_not_fit_their_config_are_refused(tmp_path: Path, models: Path) -> None:
    shutil.copytree(models / "step0", tmp_path / "damaged")
    config = json.loads((tmp_path / "damaged" / "config.json").read_text())
    (tmp_path / "damaged" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    with pytest.raises(S2LError, match=r"damaged.*missing"):
        checkpoints = [{"path": str(tmp_path / "damaged"), "step": 0}]
        build_locally(imported_job(tmp_path / "root", models, checkpoints), "checkpoints")


def test_checkpoints_of_several_models_are_refused(tmp_path: Path, models: Path) -> None:
    save_checkpoint(tmp_path / "wide", 0, hidden_size=32)
    steps = [{"path": "step0", "step": 0}, {"path": str(tmp_path / "wide"), "step": 5}]
    with pytest.raises(S2LError, match="steps 0 and 5"):
        build_locally(imported_job(tmp_path / "root", models, steps), "checkpoints")


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"vocab_size": 270}, r"data\.tokenizer"), ({"max_position_embeddings": 8}, r"data\.max_length")],
)
def test_a_model_that_is_too_small_for_the_rows_is_refused(
    tmp_path: Path, models: Path, changes: dict[str, int], key: str
) -> None:
    save_checkpoint(tmp_path / "small", 0, **changes)
    config = imported_job(tmp_path / "root", models, [{"path": str(tmp_path / "small"), "step": 0}])
    with pytest.raises(S2LError, match=key):
        build_locally(config, "trajectories")


def test_another_tokenizer_is_refused(tmp_path: Path, models: Path) -> None:
    other = save_tokenizer(tmp_path / "other", "zz yy xx ww zz yy xx ww")
    save_checkpoint(tmp_path / "model", 0, other)
    config = imported_job(tmp_path / "root", models, [{"path": str(tmp_path / "model"), "step": 0}])
    with pytest.raises(S2LError, match=r"data\.tokenizer"):
        build_locally(config, "trajectories")


@pytest.mark.parametrize(
    ("proxy", "key"),
    [
        ({"model": "gpt2"}, r"proxy\.model"),
        ({"epochs": 2}, r"proxy\.epochs"),
        ({"checkpoints_from": []}, r"proxy\.checkpoints_from"),
        ({"checkpoints_from": [{"path": "a"}]}, r"step"),
        ({"checkpoints_from": [{"path": "a", "hub": "b/c", "step": 0}]}, r"proxy\.checkpoints_from"),
        ({"checkpoints_from": [{"path": "a", "revision": "b", "step": 0}]}, r"proxy\.checkpoints_from"),
        ({"checkpoints_from": [{"path": "a", "step": 0}, {"path": "b", "step": 0}]}, r"steps \[0, 0\]"),
    ],
)
def test_keys_that_do_not_fit_an_import_are_refused(
    tmp_path: Path, models: Path, proxy: dict[str, Any], key: str
) -> None:
    with pytest.raises(ConfigError, match=key):
        imported_job(tmp_path, models, proxy=proxy)
