"""A whole job whose rows, tokenizer and model are on the hub, with two scoring workers, and again without a network."""

import json
from pathlib import Path

import pytest

from s2l_ray.config.load import load_config
from s2l_ray.pipeline.plan import plan
from s2l_ray.pipeline.run import run
from tests.support.hub_server import Hub, running_hub
from tests.support.jobs import small_job
from tests.support.tiny_models import save_checkpoint, save_tokenizer

pytest.importorskip("datasets")


def rows(word: str) -> bytes:
    lines = [{"prompt": f"{word} {number}?", "response": f"{number * number}."} for number in range(60)]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def push(hub: Hub, folder: Path, seed: int) -> dict[str, str]:
    """A data set, and a model with its tokenizer; another seed is another content of both."""
    model = save_checkpoint(folder / f"model{seed}", seed, save_tokenizer(folder / "tokenizer"))
    card = "".join(f"- {{config_name: {name}, data_files: {name}.jsonl}}\n" for name in ("rows", "x"))
    card = f"---\nconfigs:\n{card}---\n"
    files = {"README.md": card.encode(), "rows.jsonl": rows(f"What is {seed}"), "x.jsonl": rows("x")}
    return {"dataset": hub.push("datasets/owner/pairs", files), "model": hub.push_folder("models/owner/tiny", model)}


@pytest.mark.long
@pytest.mark.usefixtures("ray_session")
def test_a_job_on_the_hub(tmp_path: Path, hub_port: int) -> None:
    source = {"hub": "owner/pairs", "config": "rows", "split": "train"}
    data = {"sources": [source], "tokenizer": "owner/tiny", "max_length": 48, "shard_size": 10, "held_out": None}
    job = small_job(
        tmp_path,
        data=data,
        proxy={"model": "owner/tiny", "epochs": 1, "batch_size": 8},
        resources={"score": {"workers": 2}, "prepare": {"workers": 2}},
    )
    with running_hub(hub_port) as hub:
        commits = push(hub, tmp_path, 0)
        first = run(load_config(job))
        assert hub.downloads("model.safetensors") == hub.downloads("rows.jsonl") == 1
        assert hub.downloads("x.jsonl") == 0
        push(hub, tmp_path, 1)
        assert plan(load_config(job))["dataset"].state == "missing"
    dataset = plan(load_config(job)).artifact("dataset")
    assert dataset is not None and first.input("dataset").uri == dataset.uri
    identity = dataset.manifest.identity["data"]
    assert identity["sources"][0]["revision"] == commits["dataset"]
    assert identity["tokenizer"] == {"hub": "owner/tiny", "revision": commits["model"]}
    pinned = {"data.sources.0.revision": commits["dataset"], "data.tokenizer_revision": commits["model"]}
    overrides = [f"{key}={value}" for key, value in {**pinned, "proxy.revision": commits["model"]}.items()]
    again = run(load_config(job, [*overrides, f"root={tmp_path / 'again'}"]))
    assert again.read_table() == first.read_table()
