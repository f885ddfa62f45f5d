"""Targets that a job trains, against a loop of transformers over the same rows and batches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, get_cosine_schedule_with_warmup

from s2l_ray.artifacts.facts import DatasetFacts, TargetFacts
from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.artifacts.schemas import step_name
from s2l_ray.config.load import load_config
from s2l_ray.core.causal_lm import init_model
from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.core.training.schedule import batch_indices
from s2l_ray.pipeline.plan import plan
from s2l_ray.pipeline.run import run
from s2l_ray.runtime.training.rows import read_held_out_rows, read_selected_rows
from tests.support.jobs import small_job

pytestmark = pytest.mark.long

MODEL = {
    "architecture": "gpt_neox",
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
TARGET = {"model": MODEL, "epochs": 2, "learning_rate": 5e-3, "batch_size": 8, "precision": "float32", "seed": 3}


def batch_of(rows: TokenRows, index_B: np.ndarray) -> dict[str, torch.Tensor]:
    """Padded ids and labels of some rows, as transformers takes them."""
    width = max(int(rows.lengths_N[row]) for row in index_B)
    ids, labels = torch.zeros(len(index_B), width, dtype=torch.long), torch.full((len(index_B), width), -100)
    mask = torch.zeros_like(ids)
    for position, row in enumerate(index_B):
        one = rows.take([row])
        own = torch.from_numpy(one.ids_X.astype(np.int64))
        ids[position, : len(own)], mask[position, : len(own)] = own, 1
        for start, stop in one.spans_S2:
            labels[position, start:stop] = own[start:stop]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def train_with_transformers(model: PreTrainedModel, rows: TokenRows, steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=TARGET["learning_rate"], weight_decay=0.0)
    rates = get_cosine_schedule_with_warmup(optimizer, int(np.ceil(0.03 * steps)), steps)
    size = TARGET["batch_size"]
    for step in range(steps):
        epoch, within = divmod(step, len(rows) // size)
        model(**batch_of(rows, batch_indices(len(rows), size, epoch, within, TARGET["seed"]))).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()


def held_out_loss(model: PreTrainedModel, dataset: Artifact) -> float:
    rows = read_held_out_rows(dataset)
    with torch.no_grad():
        return float(model(**batch_of(rows, np.arange(len(rows)))).loss)


def test_targets_of_a_job(ray_session: None, tmp_path: Path) -> None:
    job = small_job(tmp_path, select={"method": "random"}, target=TARGET)
    same_steps = run(load_config(job), "target")
    planned = plan(load_config(job), "target")
    dataset, subset = open_artifact(planned["dataset"].uri), open_artifact(planned["subset"].uri)
    facts = same_steps.facts(TargetFacts)
    rows = read_selected_rows(dataset, subset)
    pool = dataset.facts(DatasetFacts)
    steps = 2 * (pool.ok // 8)
    assert (facts.rows, facts.train_rows, facts.checkpoint.step) == ("subset", len(rows), steps)

    model = init_model(MODEL, pool.vocab_size, TARGET["seed"])
    untrained = held_out_loss(model, dataset)
    train_with_transformers(model, rows, steps)
    assert facts.held_out_loss == pytest.approx(held_out_loss(model, dataset), abs=1e-4)
    stored = AutoModelForCausalLM.from_pretrained(f"{same_steps.uri}/{step_name(steps)}")
    assert held_out_loss(stored, dataset) == pytest.approx(facts.held_out_loss, abs=1e-4)

    none = run(load_config(job, ["target.rows=none"]), "target")
    assert none.facts(TargetFacts).held_out_loss == pytest.approx(untrained, abs=1e-5)
    assert none.manifest.counts.kept == 0 and "subset" not in none.manifest.inputs
