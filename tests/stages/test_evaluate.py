"""evaluate: held-out losses against transformers, one row at a time, and the averages of the facts by hand."""

from statistics import fmean

import pytest
import torch
from transformers import AutoModelForCausalLM

from s2l_ray.artifacts.facts import EvaluationFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.config.load import load_config
from s2l_ray.config.sections import Config
from tests.support.jobs import small_job
from tests.support.local_build import build_locally
from tests.support.target_artifact import STEP, write_target


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A job whose target, at random, is complete."""
    job = small_job(
        tmp_path_factory.mktemp("evaluated"), data={"shard_size": 9}, target={"model": "none/such", "rows": "pool"}
    )
    config = load_config(job)
    write_target(config, max_position_embeddings=128)
    return config


@pytest.fixture(scope="module")
def evaluation(config: Config) -> Artifact:
    return build_locally(config, "evaluation")


def test_losses_are_those_of_transformers(evaluation: Artifact) -> None:
    model = AutoModelForCausalLM.from_pretrained(f"{evaluation.input('target').uri}/step-{STEP:06d}").eval()
    dataset = evaluation.input("dataset")
    shards = [dataset.read_file(one.path).to_pylist() for one in dataset.shards("held_out/tokens/")]
    rows = [row for shard in shards for row in shard]
    assert len(shards) > 1
    found = evaluation.read_file("losses.parquet").to_pylist()
    for row, one in zip(rows, found, strict=True):
        assert (row["example_id"], row["source"]) == (one["example_id"], one["source"])
        labels = torch.full((1, len(row["input_ids"])), -100)
        for start, end in zip(row["target_spans"][::2], row["target_spans"][1::2], strict=True):
            labels[0, start:end] = torch.tensor(row["input_ids"][start:end])
        assert one["tokens"] == int((labels[0, 1:] != -100).sum())
        if one["tokens"]:
            with torch.inference_mode():
                expected = model(input_ids=torch.tensor([row["input_ids"]]), labels=labels).loss
            assert one["loss"] == pytest.approx(float(expected), abs=1e-5)
        else:
            assert one["loss"] is None


def test_facts_are_averages_of_the_losses(evaluation: Artifact) -> None:
    rows = [row for row in evaluation.read_file("losses.parquet").to_pylist() if row["loss"] is not None]
    by_source = {
        source: [row["loss"] for row in rows if row["source"] == source] for source in {r["source"] for r in rows}
    }
    facts = evaluation.facts(EvaluationFacts)
    assert facts.rows_by_source == {source: len(losses) for source, losses in by_source.items()}
    assert facts.loss_by_source == pytest.approx({source: fmean(losses) for source, losses in by_source.items()})
    assert facts.macro_loss == pytest.approx(fmean(map(fmean, by_source.values())))
    assert facts.micro_loss == pytest.approx(fmean(row["loss"] for row in rows))
    assert facts.macro_loss != pytest.approx(facts.micro_loss, abs=1e-6), "sources of different sizes"
    assert evaluation.manifest.counts.kept == len(rows)
