"""Exports for trainers: the rows, and the files that describe them, as their libraries read them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.catalog.export.chosen import Choice
from s2l_ray.catalog.export.export import export_for
from s2l_ray.catalog.export.trainers import TRAINERS
from s2l_ray.config.load import make_config
from s2l_ray.errors import ConfigError
from tests.support.chat_tokenizers import chat_tokenizer
from tests.support.local_build import build_locally
from tests.support.tiny_models import save_checkpoint

Row = dict[str, Any]
PAIRS = [{"instruction": f"What is {n} plus {n}?", "output": f"It is {2 * n}."} for n in range(8)]
CHATS = [
    {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}."}]} for n in range(8)
]


def subset_of(folder: Path, rows: list[Row]) -> Artifact:
    folder.mkdir(exist_ok=True)
    chat_tokenizer("chatml", folder / "tokenizer")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"root": str(folder), "sources": [{"path": "rows.jsonl"}], "tokenizer": "tokenizer", "max_length": 200}
    select = {"method": "random", "budget": "100%"}
    model = {"architecture": "gpt_neox"}
    values = {"root": str(folder / "root"), "run": "x", "data": data, "proxy": {"model": model}, "select": select}
    return build_locally(make_config(values, "test"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return subset_of(tmp_path_factory.mktemp("pairs"), PAIRS)


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return subset_of(tmp_path_factory.mktemp("chats"), CHATS)


def exported(subset: Artifact, folder: Path, trainer: str, **choice: Any) -> list[Row]:
    export_for(subset, str(folder), trainer, choice=Choice(**choice))
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("trainer", ["trl", "axolotl", "llama-factory"])
def test_pairs_have_the_texts_of_the_proxy(pairs: Artifact, tmp_path: Path, trainer: str) -> None:
    text = pairs.input("dataset").read_file("text/shard-00000.parquet", ["prompt", "response"]).to_pylist()
    rows = exported(pairs, tmp_path, trainer)
    assert rows == [{"prompt": row["prompt"], "completion": row["response"]} for row in text]
    assert "### Instruction:\nWhat is 3 plus 3?" in rows[3]["prompt"] and rows[3]["completion"] == "It is 6."


@pytest.mark.parametrize("trainer", ["trl", "axolotl", "llama-factory", "open-instruct"])
def test_chats_are_messages(chats: Artifact, tmp_path: Path, trainer: str) -> None:
    assert exported(chats, tmp_path, trainer) == CHATS


def test_pairs_beside_chats_are_messages(tmp_path: Path) -> None:
    rows = exported(subset_of(tmp_path / "job", [*PAIRS, *CHATS]), tmp_path / "out", "trl")
    assert rows[len(PAIRS) :] == CHATS
    assert [turn["role"] for turn in rows[0]["messages"]] == ["user", "assistant"]


def test_weights_are_a_field_of_every_form(pairs: Artifact, tmp_path: Path) -> None:
    for trainer in TRAINERS:
        assert [row["sample_weight"] for row in exported(pairs, tmp_path / trainer, trainer, weights=True)] == [1.0] * 8


def test_a_data_set_with_a_card_has_the_rows_and_the_facts(pairs: Artifact, tmp_path: Path) -> None:
    from datasets import load_dataset

    assert exported(pairs, tmp_path / "set", "hf") == PAIRS
    loaded = load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.to_list() == PAIRS
    card = (tmp_path / "set" / "README.md").read_text()
    assert pairs.manifest.fingerprint in card and "random" in card


def test_registries_name_the_file_of_rows(chats: Artifact, pairs: Artifact, tmp_path: Path) -> None:
    for subset, name in ((chats, "chats"), (pairs, "pairs")):
        exported(subset, tmp_path / name, "llama-factory")
        (entry,) = json.loads((tmp_path / name / "dataset_info.json").read_text()).values()
        assert (tmp_path / name / entry["file_name"]).is_file()
        (columns,) = {tuple(row) for row in map(json.loads, (tmp_path / name / "train.jsonl").open())}
        assert set(entry["columns"].values()) == set(columns)
    exported(pairs, tmp_path / "axolotl", "axolotl")
    (entry,) = yaml.safe_load((tmp_path / "axolotl" / "axolotl.yaml").read_text())["datasets"]
    assert Path(entry["path"]).is_file()


def test_nothing_is_overwritten_and_an_unknown_trainer_is_refused(pairs: Artifact, tmp_path: Path) -> None:
    exported(pairs, tmp_path, "trl")
    for trainer in ("trl", "none"):
        with pytest.raises(ConfigError, match=r"already exists|llama-factory"):
            export_for(pairs, str(tmp_path), trainer)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_files_of_the_user_are_not_overwritten(pairs: Artifact, tmp_path: Path, trainer: str) -> None:
    written = exported(pairs, tmp_path / "first", trainer) and list((tmp_path / "first").iterdir())
    for file in written:
        own = tmp_path / file.name / file.name
        own.parent.mkdir()
        own.write_text("mine")
        with pytest.raises(ConfigError, match=file.name):
            export_for(pairs, str(own.parent), trainer)
        assert [one.read_text() for one in own.parent.iterdir()] == ["mine"]


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A tiny model with a chat template that trainers know."""
    tokenizer = tmp_path / "tokenizer"
    chat_tokenizer("qwen3", tokenizer)
    size = len(json.loads((tokenizer / "tokenizer.json").read_text())["model"]["vocab"]) + 100
    return str(save_checkpoint(tmp_path / "model", 0, tokenizer, vocab_size=size, max_position_embeddings=256))


def run_two_steps(arguments: list[str], folder: Path) -> None:
    """Run a trainer that writes its state below `folder`/trained."""
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    state = json.loads(next((folder / "trained").rglob("trainer_state.json")).read_text())
    assert state["global_step"] == 2


def python_with(module: str, variable: str) -> str:
    """The Python that an environment variable names, else this one; skips the test where it lacks the module."""
    python = os.environ.get(variable, sys.executable)
    if subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode:
        pytest.skip(f"{module} is not installed; name a Python that has it in {variable}")
    return python


@pytest.mark.long
@pytest.mark.parametrize("form", ["pairs", "chats"])
def test_trl_trains_on_an_export(request: pytest.FixtureRequest, tmp_path: Path, model: str, form: str) -> None:
    python = python_with("trl", "S2L_TRL")
    exported(request.getfixturevalue(form), tmp_path / "out", "trl")
    script = (tmp_path / "out" / "train.py").read_text().replace("MODEL", model)
    tiny = 'max_steps=2, per_device_train_batch_size=2, use_cpu=True, bf16=False, report_to="none"'
    script = script.replace('output_dir="trained"', f'output_dir="trained", {tiny}')
    run_two_steps([python, "-c", script], tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("form", ["pairs", "chats"])
def test_llama_factory_trains_on_an_export(
    request: pytest.FixtureRequest, tmp_path: Path, model: str, form: str
) -> None:
    python = python_with("llamafactory", "S2L_LLAMA_FACTORY")
    exported(request.getfixturevalue(form), tmp_path / "out", "llama-factory")
    lines = yaml.safe_load((tmp_path / "out" / "llama_factory.yaml").read_text())
    if form == "chats":
        lines["template"] = "qwen3"
    settings = {"model_name_or_path": model, "stage": "sft", "finetuning_type": "full", "do_train": True}
    tiny = {"max_steps": 2, "per_device_train_batch_size": 2, "use_cpu": True, "output_dir": "trained"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**settings, **tiny, **lines}))
    run_two_steps([python, "-m", "llamafactory.cli", "train", "config.yaml"], tmp_path)
