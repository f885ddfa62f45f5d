"""evaluate: held-out losses against transformers, one row at a time, and the averages of the facts by hand."""

import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from s2l_ray.artifacts.facts import EvaluationFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.config.load import load_config
from s2l_ray.config.sections import Config
from s2l_ray.core.data.examples import ALPACA
from s2l_ray.errors import ConfigError
from tests.support.jobs import small_job
from tests.support.local_build import build_locally
from tests.support.stage_build import stage_config
from tests.support.target_artifact import STEP, write_target

QUESTIONS = 11
SUMS = {"name": "sums", "path": "sums.jsonl", "instruction": "{a} + {b}", "reference": "sum", "programs": False}
NOTES = {"name": "notes", "instruction": "Repeat.", "input": "{text}", "reference": "text", "answer_type": "text"}
EVALUATE = {
    "tasks": [SUMS, {**NOTES, "metrics": ["rouge_l", "bleu", "bert_score"], "programs": False}],
    "files": {"notes": "notes.jsonl"},
    "limit": QUESTIONS,
    "max_new_tokens": 6,
}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job whose target, at random, is complete, with the questions of two tasks."""
    folder = tmp_path_factory.mktemp("evaluated")
    job = small_job(
        folder,
        data={"shard_size": 9},
        target={"model": {"architecture": "gpt_neox"}, "rows": "pool"},
        evaluate=EVALUATE,
        resources={"evaluate": {"prompts_per_unit": 4, "prompts_per_batch": 3}},
    )
    sums = [{"a": number, "b": 2 * number, "sum": 3 * number} for number in range(QUESTIONS + 5)]
    notes = [{"text": f"There are {number} in all." * (1 + number)} for number in range(QUESTIONS)]
    for name, rows in {"sums": sums, "notes": notes}.items():
        (folder / "demo" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write_target(load_config(job), max_position_embeddings=128)
    return job


@pytest.fixture(scope="module")
def config(job: Path) -> Config:
    return load_config(job)


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


def test_answers_have_the_outputs_of_the_model(evaluation: Artifact) -> None:
    folder = f"{evaluation.input('target').uri}/step-{STEP:06d}"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rows = evaluation.read_file("answers/sums.parquet").to_pylist()
    assert [row["question"] for row in rows] == list(range(QUESTIONS))
    for row in rows:
        number = row["question"]
        assert row["prompt"] == ALPACA.format(instruction=f"{number} + {2 * number}")
        assert row["reference"] == str(3 * number)
        ids = tokenizer(row["prompt"], return_tensors="pt")["input_ids"]
        found = model.generate(ids, do_sample=False, max_new_tokens=6, eos_token_id=tokenizer.eos_token_id)
        assert row["output"] == tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True)
        assert 0 < row["output_tokens"] <= 6
        assert row["verdict"] == (100.0 if row["extracted"] == row["reference"] else 0.0)


def test_prompts_that_are_too_long_have_no_output(evaluation: Artifact) -> None:
    rows = evaluation.read_file("answers/notes.parquet").to_pylist()
    tokenizer = AutoTokenizer.from_pretrained(f"{evaluation.input('target').uri}/step-{STEP:06d}")
    fits = [len(tokenizer(row["prompt"])["input_ids"]) + 6 <= 128 for row in rows]
    assert [row["output"] is not None for row in rows] == fits and 0 < sum(fits) < len(rows)
    assert all(row["extracted"] is None and row["verdict"] == 0.0 for row in rows if row["output"] is None)


def test_scores_of_tasks_are_those_of_their_answers(evaluation: Artifact) -> None:
    scores = evaluation.facts(EvaluationFacts).tasks
    assert list(scores) == ["sums", "notes"]
    for name, score in scores.items():
        rows = evaluation.read_file(f"answers/{name}.parquet").to_pylist()
        verdicts = [row["verdict"] for row in rows]
        assert score.questions == QUESTIONS and score.score == pytest.approx(fmean(verdicts))
        assert score.error == pytest.approx(stdev(verdicts) / QUESTIONS**0.5)
        assert score.no_answer == sum(row["extracted"] is None for row in rows) / QUESTIONS
        assert score.output_tokens == fmean(row["output_tokens"] for row in rows)
    assert scores["notes"].metrics.keys() == {"bleu"}, "there is no model for bert_score"


def test_samples_of_a_question_are_one_value(job: Path) -> None:
    overrides = ["evaluate.samples=3", "evaluate.temperature=1.5", "evaluate.loss=false", "evaluate.limit=5"]
    evaluation = build_locally(load_config(job, overrides), "evaluation")
    rows = evaluation.read_file("answers/notes.parquet").to_pylist()
    assert [(row["question"], row["sample"]) for row in rows] == [(q, s) for q in range(5) for s in range(3)]
    assert len({row["output"] for row in rows}) > 5
    means = [fmean(row["verdict"] for row in rows if row["question"] == question) for question in range(5)]
    score = evaluation.facts(EvaluationFacts).tasks["notes"]
    assert score.questions == 5 and score.score == pytest.approx(fmean(means))
    assert score.error == pytest.approx(stdev(means) / 5**0.5)
    assert not evaluation.files("losses")


@pytest.mark.parametrize(
    ("evaluate", "key"),
    [
        ({"tasks": ["gsm8k"]}, "files"),
        ({"tasks": [{"name": "gsm8k", "path": "a.jsonl", "hub": "a/b"}]}, "gsm8k"),
        ({"tasks": [SUMS, SUMS]}, "sums"),
        ({"tasks": [SUMS], "samples": 2}, "temperature"),
        ({"loss": False}, "tasks"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(tmp_path: Path, evaluate: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        stage_config(tmp_path, evaluate=evaluate)
