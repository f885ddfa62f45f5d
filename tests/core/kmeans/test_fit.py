"""K-means against brute force and scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans as SklearnKMeans

from s2l_ray.core.arrays import Float32, Float64
from s2l_ray.core.kmeans.cpu_blocks import BLOCK_ROWS, cpu_blocks, merge, partial_sums
from s2l_ray.core.kmeans.fit import KMeansOptions, assign_clusters, fit_kmeans
from s2l_ray.core.kmeans.gpu_blocks import device_blocks
from s2l_ray.core.kmeans.linear_scores import linear_scores

TORCH = KMeansOptions(backend="torch")


def loss_curves(rows: int, columns: int = 12, seed: int = 0, groups: int = 25) -> Float32:
    """Decaying curves of several shapes with noise, similar to loss trajectories."""
    rng = np.random.default_rng(seed)
    time_T = np.linspace(0, 1, columns)
    start_G, rate_G, floor_G = rng.gamma(6, 0.4, groups), rng.gamma(2, 1.5, groups), rng.gamma(2, 0.3, groups)
    curve_GT = floor_G[:, None] + start_G[:, None] * np.exp(-rate_G[:, None] * time_T)
    group_N = rng.choice(groups, rows, p=rng.dirichlet(np.ones(groups)))
    return (curve_GT[group_N] * rng.lognormal(0, 0.1, (rows, 1)) + rng.normal(0, 0.1, (rows, columns))).astype(
        np.float32
    )


def brute_force_distances(x_NT: Float32, centroids_KT: Float32) -> Float64:
    difference_NKT = x_NT[:, None, :].astype(np.float64) - centroids_KT[None].astype(np.float64)
    return np.sqrt((difference_NKT**2).sum(axis=2))


@pytest.mark.parametrize(("rows", "columns", "k"), [(1, 1, 1), (7, 3, 20), (3000, 12, 40), (BLOCK_ROWS + 1, 2, 3)])
def test_assignment_matches_brute_force(rows: int, columns: int, k: int) -> None:
    x_NT = loss_curves(rows, columns)
    centroids_KT = loss_curves(k, columns, seed=1)
    label_N, distance_N = assign_clusters(x_NT, centroids_KT)
    expected_NK = brute_force_distances(x_NT, centroids_KT)
    assert label_N.dtype == np.int32
    assert distance_N == pytest.approx(expected_NK[np.arange(rows), label_N], rel=1e-5, abs=1e-6)
    # If the nearest two differ by more than rounding, the label equals that of float64.
    assert (expected_NK[np.arange(rows), label_N] <= expected_NK.min(axis=1) * (1 + 1e-5) + 1e-6).all()
    assert (label_N == expected_NK.argmin(axis=1)).mean() > 0.999


@pytest.mark.parametrize(
    ("loss", "outliers", "k"), [(500, 8, 100), (1000, 8, 100), (100_000, 8, 100), (1000, 400, 100), (3000, 40, 10)]
)
def test_outliers_do_not_change_the_centroid_of_ordinary_rows(loss: float, outliers: int, k: int) -> None:
    """In the last two cases most centroids are those of outliers."""
    x_NT, rng = loss_curves(8000), np.random.default_rng(3)
    x_NT[:outliers] = loss * rng.uniform(0.2, 1.5, (outliers, 1)) + rng.normal(0, 1, (outliers, 12))
    fit = fit_kmeans(x_NT, k, seed=0, options=KMeansOptions(backend="torch", sample_iterations=5), gpu=False)
    distance_NK = brute_force_distances(x_NT, fit.centroids_KT)
    with cpu_blocks(x_NT, 2) as blocks:
        labels = [blocks.nearest(fit.centroids_KT)[0]]
    labels.append(device_blocks(x_NT, torch.device("cpu")).nearest(fit.centroids_KT)[0])
    for label_N in labels:
        assert (distance_NK[np.arange(8000), label_N] <= distance_NK.min(axis=1) * (1 + 1e-6) + 1e-6).all()


def test_ties_go_to_the_first_centroid() -> None:
    centroids_KT = np.array([[3.0, 3.0], [1.0, 1.0], [1.0, 1.0], [5.0, 1.0]])
    assert assign_clusters([[1.0, 1.0], [5.0, 1.0]], centroids_KT)[0].tolist() == [1, 3]


@pytest.mark.parametrize("k", [2, 40])
def test_partial_sums_match_a_loop(k: int) -> None:
    x_BT, centroids_KT = loss_curves(700), loss_curves(k, seed=1)
    expected_KT, counts_K = np.zeros((k, 12)), np.zeros(k, int)
    for row, label in zip(x_BT, assign_clusters(x_BT, centroids_KT)[0], strict=True):
        expected_KT[label] += row
        counts_K[label] += 1
    scores = linear_scores(centroids_KT)
    whole = partial_sums(x_BT, scores)
    halves = merge([partial_sums(x_BT[:300], scores), partial_sums(x_BT[300:], scores)])
    for found in (whole, halves):
        assert found.counts_K.tolist() == counts_K.tolist()
        assert found.sums_KT == pytest.approx(expected_KT, rel=1e-12)


@pytest.mark.parametrize("k", [3, 60])
def test_device_blocks_match_cpu_blocks(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2l_ray.core.kmeans.gpu_blocks.BLOCK_SCORES", 1 << 16)  # several blocks
    x_NT, centroids_KT = loss_curves(5000), loss_curves(k, seed=1)
    device = device_blocks(x_NT, torch.device("cpu"))
    with cpu_blocks(x_NT, 1) as blocks:
        found, expected = device.sums(centroids_KT), blocks.sums(centroids_KT)
        assert found.counts_K.tolist() == expected.counts_K.tolist()
        assert found.sums_KT == pytest.approx(expected.sums_KT, rel=1e-12)
        for found_N, expected_N in zip(device.nearest(centroids_KT), blocks.nearest(centroids_KT), strict=True):
            assert found_N == pytest.approx(expected_N, rel=1e-5)


@pytest.mark.parametrize("k", [5, 40])
def test_inertia_and_centroids_match_scikit_learn(k: int) -> None:
    x_NT = loss_curves(20_000)
    start_KT = x_NT[np.random.default_rng(k).choice(len(x_NT), k, replace=False)]
    ours = fit_kmeans(
        x_NT, k, seed=0, options=KMeansOptions(iterations=8, backend="torch"), initial_centroids_KT=start_KT
    )
    theirs = SklearnKMeans(k, init=start_KT, n_init=1, max_iter=8, tol=0, algorithm="lloyd").fit(x_NT)
    assert ours.iterations == theirs.n_iter_
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-3)
    assert ours.centroids_KT == pytest.approx(theirs.cluster_centers_, rel=1e-2)
    assert ours.inertia == pytest.approx(
        (assign_clusters(x_NT, ours.centroids_KT)[1].astype(float) ** 2).sum(), rel=1e-6
    )


def test_median_inertia_is_no_worse_than_scikit_learn() -> None:
    x_NT = loss_curves(16_000, groups=60)
    same_start, recipe = [], []
    for seed in range(10):
        start_KT = x_NT[np.random.default_rng(seed).choice(len(x_NT), 40, replace=False)]
        ours = fit_kmeans(x_NT, 40, seed=seed, options=TORCH, initial_centroids_KT=start_KT)
        theirs = SklearnKMeans(40, init=start_KT, n_init=1, max_iter=5, tol=0).fit(x_NT)
        same_start.append(ours.inertia / theirs.inertia_)
        theirs = SklearnKMeans(40, n_init=1, max_iter=5, tol=0, random_state=seed).fit(x_NT)
        recipe.append(fit_kmeans(x_NT, 40, seed=seed, options=TORCH).inertia / theirs.inertia_)
    assert np.median(same_start) <= 1 + 1e-6
    assert np.median(recipe) <= 1


@pytest.mark.parametrize("outlier_factor", [1, 300])
def test_result_does_not_depend_on_the_number_of_workers(outlier_factor: int) -> None:
    x_NT = loss_curves(3 * BLOCK_ROWS + 77)
    x_NT[::500] *= outlier_factor
    threads, options = torch.get_num_threads(), KMeansOptions(iterations=3, backend="torch")
    fits = [fit_kmeans(x_NT, 20, seed=5, options=options, workers=workers) for workers in (1, 2, 4)]
    assert torch.get_num_threads() == threads
    for other in fits[1:]:
        assert other.centroids_KT.tobytes() == fits[0].centroids_KT.tobytes()
        assert other.inertia == fits[0].inertia
    labelled = [assign_clusters(x_NT, fits[0].centroids_KT, workers=workers) for workers in (1, 4)]
    assert labelled[0][0].tobytes() == labelled[1][0].tobytes()
    assert labelled[0][1].tobytes() == labelled[1][1].tobytes()


def test_every_pass_is_reported() -> None:
    reported: list[tuple[int, int]] = []
    fit = fit_kmeans(
        loss_curves(3000),
        9,
        seed=0,
        options=KMeansOptions(iterations=2, sample_iterations=3, backend="torch"),
        on_pass=lambda done, total: reported.append((done, total)),
    )
    assert reported == [(1, 3), (2, 3), (3, 3), (1, 2), (2, 2)] and fit.iterations == 2


def test_same_seed_same_centroids() -> None:
    x_NT = loss_curves(3000)
    first, again, other = (fit_kmeans(x_NT, 15, seed=seed, options=TORCH).centroids_KT for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_restarts_do_not_increase_inertia() -> None:
    x_NT = loss_curves(2000, groups=60)  # fewer rows than the sample size, so the sample is all rows
    one = fit_kmeans(x_NT, 30, seed=1, options=KMeansOptions(iterations=1, backend="torch"))
    best = fit_kmeans(x_NT, 30, seed=1, options=KMeansOptions(iterations=1, backend="torch", restarts=5))
    assert best.inertia <= one.inertia


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 40), st.integers(0, 1000))
def test_few_distinct_rows_are_clustered_exactly(distinct: int, copies: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(4, 1, (distinct, 5)).astype(np.float32)
    x_NT = rng.permutation(np.repeat(points, copies, axis=0))
    fit = fit_kmeans(x_NT, k, seed=seed, options=TORCH, workers=1)
    assert len(fit.centroids_KT) == min(k, len(x_NT))
    if k >= distinct:
        assert fit.inertia == pytest.approx(0, abs=1e-6)
        assert fit.empty_clusters == len(fit.centroids_KT) - distinct
        assert assign_clusters(x_NT, fit.centroids_KT, workers=1)[1].max() == 0


def test_empty_cluster_moves_to_the_farthest_row() -> None:
    x_NT = np.array([[0.0], [1.0], [2.0], [50.0]])
    start_KT = np.array([[0.5], [1000.0]])
    fit = fit_kmeans(
        x_NT, 2, seed=0, options=KMeansOptions(iterations=9, backend="torch"), initial_centroids_KT=start_KT
    )
    assert sorted(fit.centroids_KT.ravel().tolist()) == [1.0, 50.0]
    assert fit.empty_clusters == 0


@pytest.mark.parametrize(
    ("x_NT", "k", "empty"), [([[1.0, 2.0]], 9, 0), ([[4.0]] * 10, 3, 2), ([[0.0], [1.0], [2.0]], 3, 0)]
)
def test_degenerate_data(x_NT: list[list[float]], k: int, empty: int) -> None:
    fit = fit_kmeans(x_NT, k, seed=0, options=TORCH)
    assert (fit.inertia, fit.empty_clusters, len(fit.centroids_KT)) == (0, empty, min(k, len(x_NT)))
    assert assign_clusters(x_NT, fit.centroids_KT)[1].tolist() == [0.0] * len(x_NT)


def test_invalid_arguments_raise() -> None:
    with pytest.raises(ValueError, match=r"1 of 2 rows are not finite \(first: row 1\)"):
        fit_kmeans([[1.0, 2.0], [np.nan, 1.0]], 1, seed=0)
    with pytest.raises(ValueError, match="not finite"):
        assign_clusters([[np.inf, 2.0]], [[1.0, 2.0]])
    with pytest.raises(ValueError, match="shape"):
        fit_kmeans(np.empty((0, 3)), 1, seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        fit_kmeans([[1.0]], 0, seed=0)
    with pytest.raises(ValueError, match="same checkpoints"):
        assign_clusters([[1.0, 2.0]], [[1.0]])
    with pytest.raises(ValueError, match="expected"):
        fit_kmeans([[1.0], [2.0]], 2, seed=0, initial_centroids_KT=np.zeros((3, 1), np.float32))


def test_unavailable_backends_raise() -> None:
    with pytest.raises(ValueError, match="auto, torch, cuml"):
        fit_kmeans([[1.0]], 1, seed=0, options=KMeansOptions(backend="faiss"))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="use torch"):
            fit_kmeans([[1.0]], 1, seed=0, options=KMeansOptions(backend="cuml"))
        assert fit_kmeans([[1.0]], 1, seed=0).backend == "torch"
