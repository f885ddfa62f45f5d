"""Learning percentage against the ratio of perplexities computed directly."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.core.selection.learning_percentage import LearningPercentageParams, learning_percentage, select_as_official
from s2l_ray.core.selection.pool import Pool


def direct_learning_percentage(perplexity_N3: np.ndarray) -> list[float]:
    values = []
    for before, first, last in perplexity_N3.tolist():
        values.append(0.0 if before == last else (before - first) / (before - last))
    return values


def test_learning_percentage_by_hand() -> None:
    # Perplexities 8, 4, 2: (8 - 4) / (8 - 2); a rise in the last epoch, 8, 2, 5: (8 - 2) / (8 - 5) = 2.
    losses_NT = np.log([[8.0, 4.0, 2.0], [8.0, 2.0, 5.0], [8.0, 8.0, 2.0], [2.0, 4.0, 8.0]])
    assert learning_percentage(losses_NT, first=1, last=2) == pytest.approx([2 / 3, 2.0, 0.0, 1 / 3])


def test_learning_percentage_against_a_loop() -> None:
    losses_NT = np.random.default_rng(0).gamma(3, 1, (500, 5))
    losses_NT[:20, 4] = losses_NT[:20, 1]
    expected = direct_learning_percentage(np.exp(losses_NT[:, [1, 2, 4]]))
    assert learning_percentage(losses_NT, start=1, first=2, last=4) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.sampled_from(["1%", "3%", "10%", "33%", "50%"]))
def test_official_parts_are_those_of_array_split(sizes: list[int], percentage: str) -> None:
    rng, share = np.random.default_rng(sum(sizes)), Fraction(percentage.removesuffix("%")) / 100
    cluster_N = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    score_N = rng.permutation(len(cluster_N)).astype(np.float32)
    pool = Pool(["a"], np.zeros(len(cluster_N), int), cluster_N, score_N=score_N)
    selection = select_as_official(pool, share, LearningPercentageParams(within="clusters", compat="official"))
    expected: list[int] = []
    for cluster in range(len(sizes)):
        rows = np.flatnonzero(cluster_N == cluster)
        expected += np.array_split(rows[np.argsort(score_N[rows])], round(1 / float(share)))[0].tolist()
    assert selection.index_M.tolist() == sorted(expected)


def test_learning_percentage_on_published_perplexities(shared_data: Path) -> None:
    table = pq.read_table(shared_data / "trajectories" / "alpaca_perplexities.parquet")
    for model in ("opt-350m", "opt-2.7b", "llama2-13b"):
        perplexity_N4 = np.array(table[model].to_pylist())
        perplexity_N4 = perplexity_N4[np.isfinite(perplexity_N4).all(axis=1) & (perplexity_N4 > 0).all(axis=1)]
        expected_N = np.array(direct_learning_percentage(perplexity_N4[:, [0, 1, 3]]))
        found_N = learning_percentage(np.log(perplexity_N4), first=1, last=3)
        # The rounding of log and of the difference grows as the drop shrinks beside the perplexity itself.
        drop_N = np.abs(perplexity_N4[:, 0] - perplexity_N4[:, 3]) / perplexity_N4[:, 0]
        assert (np.abs(found_N - expected_N) <= 1e-13 * (1 + np.abs(expected_N)) / np.maximum(drop_N, 1e-300)).all()
        assert len(found_N) > 50_000


def test_learning_percentage_is_safe_where_perplexities_overflow() -> None:
    losses_NT = [
        [900.0, 800.0, 700.0],
        [1.0, 900.0, 901.0],
        [5.0, 4.0, 5.0],
        [1.0, 1000.0, 1.0 - 1e-9],
        [2.0, 2.0, 1.0],
    ]
    value_N = learning_percentage(losses_NT, first=1, last=2)
    assert value_N[:3] == pytest.approx([1.0, np.exp(-1), 0.0])
    assert value_N[3] == -np.finfo(np.float64).max
    assert value_N[4] == 0


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_is_refused(loss: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        learning_percentage([[1.0, loss, 1.0]], first=1, last=2)
    # A column that is not read may hold anything.
    assert learning_percentage([[2.0, 1.0, loss, 1.0]], first=1, last=3).tolist() == [1.0]
