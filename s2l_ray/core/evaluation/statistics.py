"""Uncertainty of scores and of their differences. S seeds, Q questions."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from s2l_ray.core.arrays import Float64

LEVEL, POWER = 0.95, 0.8
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Mean:
    """Mean of `number` values. deviation, error: standard deviation and standard error; None for fewer than two."""

    mean: float
    deviation: float | None
    error: float | None
    number: int


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference of two arms, with a confidence interval; None where it is not defined.

    clusters: the values over which the standard error is taken: `seeds` or, with one seed, `questions`.
    """

    mean: float
    error: float | None
    low: float | None
    high: float | None
    clusters: str
    number: int

    @property
    def detected(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def mean_of(values_N: ArrayLike) -> Mean:
    """Mean of independent values. Raises `ValueError` if there is none, or if one is not finite."""
    values = _finite(values_N)
    deviation = float(values.std(ddof=1)) if len(values) > 1 else None
    error = None if deviation is None else deviation / len(values) ** 0.5
    return Mean(float(values.mean()), deviation, error, len(values))


def paired_difference(first_SQ: ArrayLike, second_SQ: ArrayLike, level: float = LEVEL) -> PairedDifference:
    """Difference first - second of two arms that share seeds and questions.

    Scores are paired by question: the difference is taken for each question and seed. They are clustered by seed: all
    questions of a seed share one trained model, so the mean over questions of each seed is one value, and the interval
    is Student's for S such values. It is an interval for other seeds and these questions. With one seed it is
    Student's for Q questions: an interval for other questions and these two models.

    Raises `ValueError` if the shapes differ, or if a score is not finite.
    """
    from scipy import stats

    first, second = np.atleast_2d(first_SQ), np.atleast_2d(second_SQ)
    if first.shape != second.shape:
        raise ValueError(f"scores of {first.shape} and {second.shape} (seeds, questions) cannot be paired")
    difference_SQ = _finite(first) - _finite(second)
    by_seed = len(difference_SQ) > 1
    found = mean_of(difference_SQ.mean(axis=1) if by_seed else difference_SQ[0])
    clusters = "seeds" if by_seed else "questions"
    if found.error is None:
        return PairedDifference(found.mean, None, None, None, clusters, found.number)
    half = float(stats.t.ppf((1 + level) / 2, found.number - 1)) * found.error
    return PairedDifference(found.mean, found.error, found.mean - half, found.mean + half, clusters, found.number)


def seeds_to_detect(difference: float, deviation: float, level: float = LEVEL, power: float = POWER) -> int | None:
    """Smallest number of seeds with which a two-sided paired t-test detects a difference with the given power.

    deviation: standard deviation over seeds of the paired difference. None: more than MOST_SEEDS.
    """
    from scipy import stats

    if difference == 0:
        return None
    if deviation == 0:
        return 2
    for seeds in range(2, MOST_SEEDS + 1):
        freedom, shift = seeds - 1, abs(difference) / deviation * seeds**0.5
        limit = stats.t.ppf((1 + level) / 2, freedom)
        reached = stats.nct.sf(limit, freedom, shift) + stats.nct.cdf(-limit, freedom, shift)
        if reached >= power:
            return seeds
    return None


def _finite(values: ArrayLike) -> Float64:
    array = np.asarray(values, np.float64)
    if not array.size or not np.isfinite(array).all():
        raise ValueError("a mean needs at least one value, and finite ones")
    return array
