"""Targets with a tokenizer of their own: the same rows in other tokens, and a refusal where rows differ."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.config.load import make_config
from s2l_ray.config.sections import Config
from s2l_ray.core.data.tokenization import load_tokenizer
from s2l_ray.errors import S2LError
from s2l_ray.pipeline.plan import plan
from s2l_ray.runtime.training.rows import read_selected_rows
from tests.support.local_build import build_locally
from tests.support.tiny_models import NEOX, save_tokenizer, write_rows


def save_byte_tokenizer(folder: Path) -> None:
    """A tokenizer with one token for each byte, in another order than any other."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=True)
    tokenizer = Tokenizer(models.BPE({"<end>": 0, **{symbol: 1 + n for n, symbol in enumerate(symbols)}}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    save_tokenizer(tmp_path / "tokenizer")
    save_byte_tokenizer(tmp_path / "bytes")
    write_rows(tmp_path / "pool.jsonl", 40)
    data = {"root": str(tmp_path), "sources": [{"path": "pool.jsonl"}], "tokenizer": "tokenizer", "shard_size": 16}
    values = {
        "root": str(tmp_path / "root"),
        "run": "target",
        "data": {**data, "max_length": 200},
        "proxy": {"model": NEOX},
        "select": {"method": "random", "budget": 9},
        "target": {"model": NEOX, "tokenizer": "bytes"},
    }
    return make_config(values, "test")


def build(config: Config) -> tuple[Artifact, Artifact, Artifact]:
    dataset, rows, subset = (build_locally(config, kind) for kind in ("dataset", "target_dataset", "subset"))
    return dataset, rows, subset


def test_the_selected_rows_are_those_of_the_subset_in_other_tokens(config: Config) -> None:
    dataset, rows, subset = build(config)
    assert plan(config, "target")["target"].inputs.keys() == {"target_dataset", "subset"}
    assert plan(config, "evaluation")["evaluation"].inputs.keys() == {"target_dataset", "target"}
    texts = []
    for one in (dataset, rows):
        found = read_selected_rows(one, subset)
        with one.hold("tokenizer/") as folder:
            tokenizer = load_tokenizer(str(folder / "tokenizer"))
        ids = [found.take([row]).ids_X for row in range(len(found))]
        texts.append([tokenizer.decode(row, skip_special_tokens=True).replace(" ", "") for row in ids])
        assert len(found) == 9 and found.target_tokens_N.min() > 0
    assert texts[0] == texts[1]
    assert not np.array_equal(read_selected_rows(dataset, subset).ids_X, read_selected_rows(rows, subset).ids_X)


def test_another_target_tokenizer_changes_the_target_and_not_the_subset(config: Config) -> None:
    own = config.model_copy(update={"target": config.target.model_copy(update={"tokenizer": None})})
    first, second = plan(config, "target").fingerprints, plan(own, "target").fingerprints
    assert first["subset"] == second["subset"] and first["target"] != second["target"]
    assert "target_dataset" not in second


def test_rows_at_other_positions_are_refused(config: Config) -> None:
    _, rows, subset = build(config)
    other = config.model_copy(update={"data": config.data.model_copy(update={"limit": 30, "seed": 3})})
    with pytest.raises(S2LError, match=r"target\.tokenizer"):
        read_selected_rows(build_locally(other, "target_dataset"), subset)
    assert len(read_selected_rows(rows, subset)) == 9
