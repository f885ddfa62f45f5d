"""Flags of trajectories that were made to have them, and the plane against scikit-learn."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from s2l_ray.core.diagnostics import FLAGS, NO_TEXT, Moments, joined, near_duplicates, trajectory_statistics

ROWS = 60


@pytest.fixture
def losses() -> np.ndarray:
    """Falling trajectories, (ROWS, 4)."""
    rng = np.random.default_rng(0)
    return (np.asarray([1.5, 1.2, 1.0, 0.9]) + rng.uniform(-0.05, 0.05, (ROWS, 4))).astype(np.float32)


@pytest.mark.parametrize(
    ("flag", "trajectory"),
    [
        ("never_learned", [3.0, 2.9, 2.8, 2.7]),
        ("learned_then_lost", [1.5, 0.5, 0.6, 1.3]),
        ("learned_at_once", [0.05, 0.04, 0.04, 0.04]),
        ("rising_loss", [1.5, 1.6, 1.7, 1.8]),
    ],
)
def test_a_flag_finds_its_row_alone(losses: np.ndarray, flag: str, trajectory: list[float]) -> None:
    losses[17] = trajectory
    known = trajectory_statistics(losses)
    assert np.flatnonzero(FLAGS[flag].flagged(known, np.zeros(ROWS, int))).tolist() == [17]
    assert FLAGS[flag].severity(known).argmax() == 17


def test_outliers_are_those_of_their_source(losses: np.ndarray) -> None:
    source = np.arange(ROWS) % 2
    losses[source == 1] += 2
    flagged = FLAGS["never_learned"].flagged(trajectory_statistics(losses), source)
    assert not flagged.any()


def test_shards_are_joined_in_order(losses: np.ndarray) -> None:
    parts = joined([trajectory_statistics(losses[:10]), trajectory_statistics(losses[10:])])
    whole = trajectory_statistics(losses)
    assert np.array_equal(parts.lowest_N, whole.lowest_N)
    assert np.array_equal(parts.peak_N, whole.peak_N)


def test_the_plane_is_that_of_the_principal_components(losses: np.ndarray) -> None:
    moments = Moments(4)
    moments.add(losses[:25])
    moments.add(losses[25:])
    plane, expected = moments.plane(), PCA(2).fit(losses.astype(np.float64))
    found, wanted = plane.project(losses), expected.transform(losses.astype(np.float64))
    signs = np.sign((found * wanted).sum(axis=0))
    assert found == pytest.approx(wanted * signs, abs=1e-5)
    assert plane.explained == pytest.approx(expected.explained_variance_ratio_.sum())


def test_a_single_checkpoint_has_a_plane() -> None:
    moments = Moments(1)
    moments.add(np.asarray([[1.0], [2.0]], np.float32))
    assert moments.plane().project(np.asarray([[1.0], [2.0]], np.float32)) == pytest.approx(
        np.asarray([[-0.5, 0], [0.5, 0]])
    )


def test_near_duplicates_share_a_text_and_a_loss() -> None:
    text = np.asarray([7, 8, 7, 7, 8, NO_TEXT, NO_TEXT], np.uint64)
    mean = np.asarray([1.0, 2.0, 1.5, 1.01, 3.0, 1.0, 1.0], np.float32)
    similar, gap = near_duplicates(text, mean)
    assert np.flatnonzero(similar).tolist() == [0, 3]
    assert gap[[0, 3]] == pytest.approx([0.01, 0.01], abs=1e-6)
    assert np.isinf(gap[[1, 2, 4, 5, 6]]).all()
