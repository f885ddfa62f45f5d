"""Intervals against scipy and against simulated experiments."""

import numpy as np
import pytest
from scipy import stats

from s2l_ray.core.evaluation.statistics import mean_of, paired_difference, seeds_to_detect


def test_mean_and_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=12)
    found = mean_of(values)
    assert (found.mean, found.number) == (pytest.approx(values.mean()), 12)
    assert (found.deviation, found.error) == (pytest.approx(values.std(ddof=1)), pytest.approx(stats.sem(values)))


def test_one_value_has_no_error() -> None:
    found = mean_of([3.0])
    assert (found.mean, found.deviation, found.error) == (3.0, None, None)


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf]])
def test_missing_values_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError):
        mean_of(values)


def test_seeds_are_the_clusters() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(1, 1, (4, 50)), rng.normal(0, 1, (4, 50))
    found = paired_difference(first, second)
    test = stats.ttest_rel(first.mean(axis=1), second.mean(axis=1))
    interval = test.confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert (found.clusters, found.number) == ("seeds", 4)
    assert found.detected == (test.pvalue < 0.05)


def test_questions_are_the_clusters_of_one_seed() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.random(200) < 0.6, rng.random(200) < 0.5
    found = paired_difference(first.astype(float), second.astype(float))
    interval = stats.ttest_rel(first.astype(float), second.astype(float)).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert (found.clusters, found.number) == ("questions", 200)


def test_one_seed_and_one_score_have_no_interval() -> None:
    found = paired_difference([4.1], [4.3])
    assert (found.mean, found.low, found.high, found.detected) == (pytest.approx(-0.2), None, None, False)


def test_arms_with_other_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="paired"):
        paired_difference(np.zeros((3, 5)), np.zeros((3, 6)))


def test_intervals_cover_the_true_difference_where_questions_of_a_seed_are_correlated() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        by_seed, by_question = rng.normal(0.3, 0.2, (3, 1)), rng.normal(0, 1, (1, 40))
        noise = rng.normal(0, 0.1, (2, 3, 40))
        found = paired_difference(by_seed + by_question + noise[0], by_question + noise[1])
        covered += found.low is not None and found.high is not None and found.low <= 0.3 <= found.high
    assert covered / 400 == pytest.approx(0.95, abs=0.035)


def test_seeds_to_detect_reach_the_power_in_simulation() -> None:
    seeds = seeds_to_detect(0.05, 0.04)
    assert seeds is not None
    rng = np.random.default_rng(4)

    def power(number: int) -> float:
        return float((stats.ttest_1samp(rng.normal(0.05, 0.04, (20000, number)), 0, axis=1).pvalue < 0.05).mean())

    assert power(seeds) >= 0.79 and power(seeds - 1) < 0.8


@pytest.mark.parametrize(("difference", "deviation", "seeds"), [(0.0, 1.0, None), (0.001, 1.0, None), (0.1, 0.0, 2)])
def test_seeds_to_detect_at_its_limits(difference: float, deviation: float, seeds: int | None) -> None:
    assert seeds_to_detect(difference, deviation) == seeds
