"""Agreement of rankings and clusterings, against scipy, scikit-learn and counting by hand."""

import math

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from s2l_ray.core.agreement import SetAgreement, adjusted_rand_index, rank_agreement, set_agreement


def test_rankings_by_hand() -> None:
    """Of the six pairs, one is ordered differently; the lowest half shares one of two rows."""
    agreement = rank_agreement([1, 2, 3, 4], [10, 30, 20, 40], shares=(25, 50))
    assert agreement.kendall == pytest.approx((5 - 1) / 6)
    assert agreement.spearman == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert agreement.overlaps == {25: 1.0, 50: 0.5}
    assert (agreement.rows, agreement.left_out) == (4, 0)


def test_rows_without_a_score_in_both_are_left_out() -> None:
    nan = math.nan
    whole = rank_agreement([1.0, 5.0, 3.0], [1.0, 2.0, 9.0], shares=(34,))
    holes = rank_agreement([1.0, nan, 5.0, 4.0, 3.0], [1.0, 7.0, 2.0, np.inf, 9.0], shares=(34,))
    assert (holes.rows, holes.left_out) == (3, 2)
    assert (holes.kendall, holes.spearman, holes.overlaps) == (whole.kendall, whole.spearman, whole.overlaps)


def test_agreement_that_is_not_defined_is_none() -> None:
    constant = rank_agreement([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], shares=(50,))
    assert (constant.spearman, constant.kendall, constant.overlaps) == (None, None, {50: 1.0})
    few = rank_agreement([1.0], [2.0])
    assert few.spearman is None and set(few.overlaps.values()) == {None}
    assert set_agreement(0, 0, 0) == SetAgreement(0, 0, 0, None, None)
    assert set_agreement(3, 4, 2) == SetAgreement(3, 4, 2, 2 / 3, 2 / 5)


@pytest.mark.parametrize("seed", range(20))
def test_adjusted_rand_index_equals_that_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(2, 200))
    first, second = rng.integers(0, 1 + seed, rows), rng.integers(0, 7, rows) * 1000
    second[: rows // 2] = first[: rows // 2]
    assert adjusted_rand_index(first, second) == pytest.approx(adjusted_rand_score(first, second), abs=1e-12)
    assert adjusted_rand_index(first, 5 - first) == 1.0
