"""The check before scoring: rows of all shards, the same attention for every unit, and refusals in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from s2l_ray.artifacts.execution import ScoreExecution
from s2l_ray.artifacts.facts import DatasetFacts, TrajectoriesFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import losses_path, token_rows
from s2l_ray.artifacts.tables import notes_of, read_table
from s2l_ray.config.load import load_config
from s2l_ray.errors import S2LError
from s2l_ray.pipeline.plan import plan
from s2l_ray.pipeline.run import run
from s2l_ray.stages.score_check import read_checked_rows
from s2l_ray.stages.score_workers import ScoreUnit, ScoreWorker
from tests.support.jobs import small_job
from tests.support.local_build import build_locally
from tests.support.tiny_models import STEPS, imported_job, save_checkpoint, save_tokenizer

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
WINDOW = {"num_key_value_heads": 2, "sliding_window": 16}
MIXTURE = {"use_sliding_window": True, "max_window_layers": 1, "num_experts": 4, "num_experts_per_tok": 2}
LONG_ROW, SHARD_SIZE = 43, 5


def trajectories_of(folder: Path, **model: Any) -> Artifact:
    """Trajectories of three checkpoints. All rows are short, but for one of a shard that is neither first nor last."""
    rows = [{"prompt": "a", "response": "b" * (2 + number % 4)} for number in range(60)]
    rows[LONG_ROW] = {"prompt": "a", "response": "cd" * 20}
    (folder / "rows.jsonl").write_text("\n".join(json.dumps({**row, "prompt": f"{n}"}) for n, row in enumerate(rows)))
    tokenizer = save_tokenizer(folder / "tokenizer")
    for step in STEPS:
        save_checkpoint(folder / f"step{step}", step, tokenizer, **SMALL, **model)
    return build_locally(imported_job(folder / "root", folder), "trajectories")


def losses_one_row_at_a_time(trajectories: Artifact, step: int) -> list[float]:
    model = AutoModelForCausalLM.from_pretrained(trajectories.input("checkpoints").uri + f"/step-{step:06d}").eval()
    losses = []
    for table in trajectories.input("dataset").read_tables(["input_ids", "target_spans"]):
        rows = token_rows(table)
        for index in range(len(rows)):
            row = rows.take([index])
            ids_1L = torch.from_numpy(row.ids_X.astype(np.int64))[None]
            labels_1L = torch.where(torch.from_numpy(row.target_mask_X)[None], ids_1L, -100)
            with torch.no_grad():
                losses.append(float(model(input_ids=ids_1L, labels=labels_1L).loss))
    return losses


@pytest.mark.parametrize(
    ("model", "attention"),
    [
        ({"architecture": "mistral", **WINDOW}, "packed"),
        ({"architecture": "qwen2_moe", **WINDOW, **MIXTURE}, "padded"),
        ({"architecture": "lfm2", "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]}, "padded"),
    ],
    ids=["window of the attention", "window of the mask", "short convolution"],
)
def test_every_loss_is_that_of_its_row_alone(tmp_path: Path, model: dict[str, Any], attention: str) -> None:
    trajectories = trajectories_of(tmp_path, **model)
    facts = trajectories.facts(TrajectoriesFacts)
    assert facts.attention == {attention: len(facts.steps) * len(trajectories.shards())}
    assert facts.numerics["attention"] == attention
    losses_NT = np.array(trajectories.read_table(["losses"])["losses"].to_pylist())
    for column in (0, len(facts.steps) - 1):
        expected_N = losses_one_row_at_a_time(trajectories, facts.steps[column])
        np.testing.assert_allclose(losses_NT[:, column], expected_N, atol=1e-5)


def test_the_longest_row_of_the_dataset_is_checked(tmp_path: Path) -> None:
    dataset = trajectories_of(tmp_path).input("dataset")
    facts = dataset.facts(DatasetFacts)
    assert facts.longest_shard == LONG_ROW // SHARD_SIZE
    rows = read_checked_rows(dataset, 0)
    assert rows.lengths_N.max() == facts.longest
    assert len(rows) > SHARD_SIZE and (rows.target_tokens_N > 0).all()


def test_a_unit_that_packed_attention_does_not_support_is_scored_padded(tmp_path: Path) -> None:
    trajectories = trajectories_of(tmp_path, architecture="qwen2_moe", **WINDOW, **MIXTURE)
    folder, config = str(tmp_path / "unit"), imported_job(tmp_path / "root", tmp_path)
    inputs = [trajectories.input(kind).uri for kind in ("dataset", "checkpoints")]
    worker = ScoreWorker(folder, "packed", *inputs, config.score, ScoreExecution(4096, "auto", 1, 0))
    unit = worker(ScoreUnit(STEPS[0], 0, {}))
    table = read_table(folder, unit.file)
    assert notes_of(table) == {"attention": "padded"}
    stored = read_table(trajectories.uri, trajectories.record(losses_path(STEPS[0], 0)))
    np.testing.assert_allclose(table["nll_sum"].to_numpy(), stored["nll_sum"].to_numpy(), rtol=1e-5)


def test_a_model_that_is_not_causal_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(S2LError, match="not a causal language model") as caught:
        trajectories_of(tmp_path, architecture="bert")
    assert len(str(caught.value).splitlines()) == 1
    config = imported_job(tmp_path / "root", tmp_path)
    assert not list(Path(plan(config)["trajectories"].uri).rglob("*.parquet"))


@pytest.mark.slow
def test_a_short_convolution_is_never_packed_in_a_whole_job(tmp_path: Path, ray_session: None) -> None:
    """LFM2 from a config: its packed losses are right before training and wrong by 1e-3 nats after it."""
    model = {"architecture": "lfm2", **SMALL, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]}
    job = small_job(tmp_path, rows=200, proxy={"model": model, "epochs": 4}, data={"shard_size": 50})
    trajectories = run(load_config(job), to="trajectories")
    sealed = [json.loads(path.read_text()) for path in tmp_path.rglob("checkpoint.json")]
    assert {checkpoint["attention"]["attention"] for checkpoint in sealed} == {"padded"}
    facts = trajectories.facts(TrajectoriesFacts)
    assert set(facts.attention) == {facts.numerics["attention"]} == {"padded"}
    losses_NT = np.array(
        [row or [np.nan] * len(facts.steps) for row in trajectories.read_table()["losses"].to_pylist()]
    )
    for column, step in enumerate(facts.steps):
        np.testing.assert_allclose(losses_NT[:, column], losses_one_row_at_a_time(trajectories, step), atol=1e-5)
    assert np.nanmax(np.abs(losses_NT[:, 0] - losses_NT[:, -1])) > 0.1, "the proxy has to learn"


def test_a_dataset_without_target_tokens_has_no_row_to_check(tmp_path: Path) -> None:
    dataset = trajectories_of(tmp_path).input("dataset")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "' + "long " * 60 + '", "response": "cut"}')
    config = imported_job(tmp_path / "other", tmp_path)
    without_targets = build_locally(config, "dataset")
    assert len(read_checked_rows(dataset, 0)) > 0 and len(read_checked_rows(without_targets, 0)) == 0
