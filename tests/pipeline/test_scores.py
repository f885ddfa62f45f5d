"""Scores, costs and verdicts of an experiment, against scipy and sums by hand."""

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from scipy import stats

from s2l_ray.artifacts.facts import EvaluationFacts, TargetFacts, TaskScore
from s2l_ray.artifacts.schemas import ANSWERS_FOLDER, HELD_OUT_LOSSES, LOSSES_TABLE, TRAINING_TABLE
from s2l_ray.artifacts.tables import FileRecord, write_table
from s2l_ray.config.experiment import load_experiment
from s2l_ray.config.sections import Prices
from s2l_ray.core.training.records import CheckpointRecord
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.costs import Cost, artifact_cost, selection_cost
from s2l_ray.pipeline.experiment import ExperimentPlan, PlannedArm, plan_experiment
from s2l_ray.pipeline.scores import ExperimentScores, experiment_scores
from s2l_ray.pipeline.verdicts import verdicts
from s2l_ray.terminal.experiments.scores import scores_csv, scores_markdown
from tests.support.pool_artifacts import PoolRow, write_artifact, write_checkpoints, write_dataset, write_subset

ROWS = [[PoolRow(f"row-{number}") for number in range(20)]]
SOURCES = ["large"] * 6 + ["small"] * 2
# mean loss of each arm; the losses of a seed differ by less than 0.2 from it
ARMS: dict[str, tuple[dict[str, Any], float]] = {
    "better": ({"select.method": "longest"}, 1.0),
    "control": ({"select.method": "random"}, 2.0),
    "worse": ({"target.rows": "pool"}, 4.0),
    "none": ({"target.rows": "none"}, 9.0),
}


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    values = {
        "root": str(tmp_path / "root"),
        "run": "small",
        "data": {
            "root": str(tmp_path),
            "sources": [{"path": "rows.jsonl"}],
            "tokenizer": {"train": {"vocab_size": 400}},
        },
        "proxy": {"model": {"architecture": "gpt_neox"}},
        "select": {"budget": 5},
        "target": {"model": {"architecture": "gpt2"}, "batch_size": 4},
    }
    (tmp_path / "rows.jsonl").write_text("")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(values))
    arms = {name: changes for name, (changes, _) in ARMS.items()}
    path = tmp_path / "experiment.yaml"
    path.write_text(
        yaml.safe_dump({"job": "job.yaml", "to": "evaluation", "arms": arms, "seeds": [0, 1, 2]}, sort_keys=False)
    )
    return path


def losses_of(arm: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng([list(ARMS).index(arm), seed])
    return ARMS[arm][1] + rng.uniform(-0.2, 0.2, len(SOURCES))


def macro(loss_Q: np.ndarray) -> float:
    sources = np.array(SOURCES)
    return float(np.mean([loss_Q[sources == name].mean() for name in ("large", "small")]))


def complete(planned: ExperimentPlan) -> None:
    """Write the artifacts of every arm, with made-up losses."""
    write_dataset(planned.arms[0].plan["dataset"].uri, ROWS)
    for arm in planned.arms:
        if "subset" in arm.plan:
            step = arm.plan["subset"]
            write_subset(step.uri, ROWS, range(5), step.inputs, arm.job.config.select.method)
        record = CheckpointRecord(6)
        step = arm.plan["target"]
        write_artifact(step.uri, "target", [], TargetFacts(record, arm.job.config.target.rows, 5, 100), step.inputs)
        write_evaluation(arm)


def write_evaluation(arm: PlannedArm) -> None:
    step, loss_Q = arm.plan["evaluation"], losses_of(arm.job.arm, arm.job.seed)
    rows = [{"example_id": str(n), "source": s, "tokens": 3, "loss": loss_Q[n]} for n, s in enumerate(SOURCES)]
    table = write_table(step.uri, LOSSES_TABLE, pa.Table.from_pylist(rows, schema=HELD_OUT_LOSSES))
    answers = write_table(step.uri, f"{ANSWERS_FOLDER}sums.parquet", answers_of(arm.job.arm, arm.job.seed))
    tasks = {"sums": TaskScore(3, float(np.mean(answers_of(arm.job.arm, arm.job.seed)["verdict"])), 1.0, 0.0, 4.0)}
    facts = EvaluationFacts({}, {}, macro(loss_Q), float(loss_Q.mean()), tasks)
    write_artifact(step.uri, "evaluation", [], facts, step.inputs, [table, answers])


def rewrite(arm: PlannedArm, kind: str, seconds: float | None = None, **changes: Any) -> None:
    """Write a complete artifact again with other facts."""
    step, manifest = arm.plan[kind], arm.complete(kind).manifest
    facts = replace(manifest.facts, **changes)
    write_artifact(step.uri, kind, [], facts, step.inputs, manifest.files, seconds)


def answers_of(arm: str, seed: int) -> pa.Table:
    """Two samples of each of three questions; the later an arm, the fewer are right."""
    verdicts = [100.0 * ((seed + place) % 4 >= list(ARMS).index(arm)) for place in range(6)]
    return pa.table({"question": [0, 0, 1, 1, 2, 2], "verdict": verdicts})


@pytest.fixture
def scores(experiment: Path) -> ExperimentScores:
    complete(plan_experiment(load_experiment(experiment)))
    return experiment_scores(plan_experiment(load_experiment(experiment)))


def test_scores_are_means_over_seeds(scores: ExperimentScores) -> None:
    assert (scores.reference, scores.names) == ("control", ("macro loss", "micro loss", "sums"))
    assert [arm.trained_on for arm in scores.arms] == ["longest", "random", "pool", "none"]
    for arm in scores.arms:
        expected = [macro(losses_of(arm.arm, seed)) for seed in scores.seeds]
        found = arm.scores["macro loss"]
        assert list(found.values.values()) == pytest.approx(expected)
        assert found.mean.mean == pytest.approx(np.mean(expected))
        assert found.mean.deviation == pytest.approx(np.std(expected, ddof=1))


def test_intervals_are_those_of_a_paired_t_test_over_seeds(scores: ExperimentScores) -> None:
    control = [losses_of("control", seed).mean() for seed in scores.seeds]
    for arm in scores.arms:
        found = arm.scores["micro loss"].difference
        if arm.arm == "control":
            assert found is None
            continue
        own = [losses_of(arm.arm, seed).mean() for seed in scores.seeds]
        interval = stats.ttest_rel(own, control).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_the_experiment_names_the_arm_to_compare_with(experiment: Path, scores: ExperimentScores) -> None:
    found = experiment_scores(plan_experiment(load_experiment(experiment, ["reference=worse"])))
    differences = {arm.arm: arm.scores["macro loss"].difference for arm in found.arms}
    assert differences.pop("worse") is None
    worse = [macro(losses_of("worse", seed)) for seed in found.seeds]
    for arm, difference in differences.items():
        own = [macro(losses_of(arm, seed)) for seed in found.seeds]
        assert difference.mean == pytest.approx(np.mean(own) - np.mean(worse))


def test_one_seed_is_paired_by_row(experiment: Path, scores: ExperimentScores) -> None:
    one = experiment_scores(plan_experiment(load_experiment(experiment, ["seeds=[1]"])))
    first, second = losses_of("better", 1), losses_of("control", 1)
    found = one.arms[0].scores
    interval = stats.ttest_rel(first, second).confidence_interval(0.95)
    micro, weighted = found["micro loss"].difference, found["macro loss"].difference
    assert (micro.low, micro.high) == pytest.approx((interval.low, interval.high))
    by_question = [np.reshape(answers_of(arm, 1)["verdict"], (3, 2)).mean(axis=1) for arm in ("better", "control")]
    interval = stats.ttest_rel(*by_question).confidence_interval(0.95)
    task = found["sums"].difference
    assert (task.low, task.high, task.number) == pytest.approx((interval.low, interval.high, 3))
    assert weighted.mean == pytest.approx(macro(first) - macro(second)) and weighted.number == len(SOURCES)


def test_verdicts_follow_the_sign_of_a_loss(scores: ExperimentScores) -> None:
    found = verdicts(scores)
    assert list(found) == ["better", "worse", "none"]
    assert "beats" in found["better"] and "worse" in found["worse"] and "worse" in found["none"]


def test_a_difference_within_the_noise_is_no_win(experiment: Path) -> None:
    planned = plan_experiment(load_experiment(experiment, ["arms.same={select.method: shortest}"]))
    ARMS["same"] = ({}, 2.0)
    try:
        complete(planned)
        found = verdicts(experiment_scores(plan_experiment(planned.experiment)))["same"]
    finally:
        del ARMS["same"]
    assert "no difference" in found and "seeds are needed" in found and "beats" not in found


def test_an_arm_like_the_reference_differs_by_nothing(experiment: Path) -> None:
    planned = plan_experiment(load_experiment(experiment, ["arms.again={select.method: random}"]))
    ARMS["again"] = ({}, 2.0)
    try:
        complete(planned)
        found = experiment_scores(plan_experiment(planned.experiment))
    finally:
        del ARMS["again"]
    difference = found.arms[-1].scores["macro loss"].difference
    assert found.reference == "control" and difference is not None and difference.mean == 0
    assert "no difference" in verdicts(found)["again"]


def test_a_score_that_is_no_mean_of_questions_has_no_interval(experiment: Path) -> None:
    planned = plan_experiment(load_experiment(experiment, ["seeds=[1]"]))
    complete(planned)
    for arm, score in zip(plan_experiment(planned.experiment).arms, (30.0, 20.0, 10.0, 0.0), strict=True):
        rewrite(arm, "evaluation", tasks={"sums": TaskScore(3, score, None, 0.0, 4.0)})
    difference = experiment_scores(plan_experiment(planned.experiment)).arms[0].scores["sums"].difference
    assert difference is not None and (difference.mean, difference.low) == (10.0, None)


@pytest.mark.parametrize("change", [{"tasks": {}}, {"rows_by_source": {"large": 5}}])
def test_arms_of_other_rows_or_questions_are_not_compared(experiment: Path, change: dict[str, Any]) -> None:
    planned = plan_experiment(load_experiment(experiment))
    complete(planned)
    arm = next(one for one in plan_experiment(planned.experiment).arms if one.job.name == "worse.2")
    rewrite(arm, "evaluation", **change)
    with pytest.raises(ConfigError, match=r"worse.*2"):
        experiment_scores(plan_experiment(planned.experiment))


def test_files_have_every_arm_and_seed(scores: ExperimentScores) -> None:
    rows = list(csv.DictReader(io.StringIO(scores_csv(scores))))
    assert [row["arm"] for row in rows] == list(ARMS)
    assert float(rows[0]["macro loss seed 2"]) == pytest.approx(macro(losses_of("better", 2)))
    assert rows[0]["macro loss difference"] and not rows[1]["macro loss difference"]
    tables = [line for line in scores_markdown(scores).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in tables[: 2 + len(ARMS)]}) == 1


def test_an_arm_that_is_not_complete_is_named(experiment: Path) -> None:
    with pytest.raises(ConfigError, match=r"small\.better\.0.*evaluation"):
        experiment_scores(plan_experiment(load_experiment(experiment)))


def weights(uri: str, step: str, parameters: int) -> FileRecord:
    return FileRecord(f"{step}/model.safetensors", None, 4 * parameters, "0" * 64)


def test_costs_are_counted_from_parameters_and_tokens(tmp_path: Path) -> None:
    uri, facts = f"{tmp_path}/target/{'0' * 12}", TargetFacts(CheckpointRecord(6), "subset", 5, tokens=100)
    target = write_artifact(uri, "target", [], facts, {}, [weights(uri, "step-000006", 7)], seconds=1800)
    # two workers with half a GPU each, for half an hour
    assert artifact_cost(target, Prices(gpu_hour=3.0)) == Cost(6 * 7 * 100, 1800, 1.5)
    assert artifact_cost(target, Prices(cpu_hour=3.0)).money is None

    uri = f"{tmp_path}/checkpoints/{'1' * 12}"
    steps = write_table(uri, TRAINING_TABLE, pa.table({"tokens": [10, 30]}))
    proxy = write_checkpoints(uri, [0, 2], {"dataset": "2" * 12})
    files = [weights(uri, "step-000000", 3), weights(uri, "step-000002", 3), steps]
    proxy = write_artifact(uri, "checkpoints", [], proxy.manifest.facts, {"dataset": "2" * 12}, files, seconds=60)
    assert artifact_cost(proxy, Prices()) == Cost(6 * 3 * 40, 60, None)


def test_arms_without_a_subset_select_nothing(experiment: Path, scores: ExperimentScores) -> None:
    planned = plan_experiment(load_experiment(experiment))
    by_arm = {arm.job.arm: selection_cost(arm.plan, Prices()) for arm in planned.arms}
    assert by_arm["none"] == by_arm["worse"] == Cost(0, 0, 0)
    assert by_arm["better"] == Cost(None, None, None)  # its manifest has no seconds


def test_the_cost_of_an_artifact_that_was_deleted_is_not_known(experiment: Path) -> None:
    planned = plan_experiment(load_experiment(experiment, ["arms.better={select.method: loss_high}"]))
    complete(planned)
    rewrite(plan_experiment(planned.experiment).arms[0], "subset", seconds=5.0)
    arm = plan_experiment(planned.experiment).arms[0]
    assert "checkpoints" in arm.plan and artifact_cost(arm.complete("subset"), Prices()).seconds == 5
    assert selection_cost(arm.plan, Prices()) == Cost(None, None, None)
