"""The report of an experiment, against the losses that its evaluations were written from."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from s2l_ray.cli import app
from s2l_ray.config.experiment import load_experiment
from s2l_ray.errors import ConfigError
from s2l_ray.pipeline.experiment import plan_experiment
from s2l_ray.reporting.figures import figures
from s2l_ray.reporting.page import page
from s2l_ray.reporting.report import report
from tests.pipeline.test_scores import ARMS, complete, experiment, losses_of, macro

__all__ = ["experiment"]
SEEDS = (0, 1, 2)


def test_arms_have_scores_differences_and_verdicts(experiment: Path) -> None:
    complete(plan_experiment(load_experiment(experiment)))
    made = report(str(experiment))
    assert made.experiment is not None
    arms = {one.arm: one for one in made.experiment.arms}
    means = {arm: np.mean([macro(losses_of(arm, seed)) for seed in SEEDS]) for arm in ARMS}
    assert {arm: one.scores["macro loss"].mean for arm, one in arms.items()} == pytest.approx(means)
    for arm in set(ARMS) - {"control"}:
        found = arms[arm].scores["macro loss"]
        assert found.difference == pytest.approx(means[arm] - means["control"])
        assert found.low is not None and found.high is not None and found.low < found.difference < found.high
        assert arm in made.experiment.verdicts
    assert arms["control"].scores["macro loss"].difference is None
    assert (arms["better"].rows, arms["worse"].rows) == (5, None)


def test_the_page_of_an_experiment_shows_its_arms_and_the_first_job(experiment: Path) -> None:
    complete(plan_experiment(load_experiment(experiment)))
    made = report(str(experiment))
    assert made.summary.selected == 5
    assert made.evaluation is not None
    assert made.evaluation.macro_loss == pytest.approx(macro(losses_of("better", 0)))
    assert "differences" in figures(made)
    text = page(made)
    for arm in ARMS:
        assert f"<td>{arm}</td>" in text


def test_the_text_has_the_scores_of_the_page(experiment: Path) -> None:
    complete(plan_experiment(load_experiment(experiment)))
    printed = CliRunner().invoke(app, ["report", str(experiment), "--text"]).stdout
    for arm in ARMS:
        mean = np.mean([macro(losses_of(arm, seed)) for seed in SEEDS])
        line = next(line for line in printed.splitlines() if line.split()[:3] == ["macro", "loss", arm])
        assert f"{mean:.3f}" in line.split()


def test_an_incomplete_experiment_is_refused(experiment: Path) -> None:
    with pytest.raises(ConfigError, match="run the experiment"):
        report(str(experiment))


def test_overlaps_are_shown_where_the_first_arm_has_no_selection(experiment: Path) -> None:
    values = yaml.safe_load(experiment.read_text())
    values["arms"] = {arm: values["arms"][arm] for arm in ("none", "better", "control")}
    experiment.write_text(yaml.safe_dump(values, sort_keys=False))
    complete(plan_experiment(load_experiment(experiment)))
    text = page(report(str(experiment)))
    assert "overlap with better" in text and "overlap with control" in text
