"""Greedy coverage against loops over all candidates."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.core.selection import coverage
from s2l_ray.core.selection.coverage import CoverageParams, FacilityLocationParams, check_size
from s2l_ray.core.selection.pool import Pool
from tests.core.selection.oracles import largest_remainder, pool_of, prefixes


def naive_facility_location(x_ND: np.ndarray, budget: int) -> list[int]:
    """Rows in order of selection: each maximises the summed similarity of all rows to the nearest selected one."""
    distance_NN = np.linalg.norm(x_ND[:, None] - x_ND[None], axis=2)
    similarity_NN = distance_NN.max(initial=0) - distance_NN
    chosen: list[int] = []
    while len(chosen) < budget:
        values = {row: similarity_NN[[*chosen, row]].max(axis=0).sum() for row in range(len(x_ND)) if row not in chosen}
        best = max(values.values())
        chosen.append(min(row for row, value in values.items() if value >= best - 1e-9))
    return chosen


def naive_k_center(x_ND: np.ndarray, first: int, budget: int) -> list[int]:
    distance_NN = np.linalg.norm(x_ND[:, None] - x_ND[None], axis=2)
    chosen = [first][:budget]
    while len(chosen) < budget:
        nearest = {row: distance_NN[row, chosen].min() for row in range(len(x_ND)) if row not in chosen}
        best = max(nearest.values())
        chosen.append(min(row for row, value in nearest.items() if value >= best - 1e-12))
    return chosen


VECTORS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=14)


@settings(max_examples=60)
@given(VECTORS, st.data())
def test_lazy_greedy_agrees_with_the_naive_one(vectors: list[tuple[int, int]], data: st.DataObject) -> None:
    """Vectors on a grid have many equal distances, and equal rows."""
    x_ND = np.array(vectors, np.float64)
    order = [row for row, _ in coverage.facility_location(x_ND, x_ND)]
    distance_NN = np.linalg.norm(x_ND[:, None] - x_ND[None], axis=2)
    for budget in range(1, len(x_ND) + 1):
        found = distance_NN[order[:budget]].min(axis=0).sum()
        # With ties the rows may differ, and the greedy value may not.
        best = min(distance_NN[[*order[: budget - 1], row]].min(axis=0).sum() for row in range(len(x_ND)))
        assert found == pytest.approx(best, abs=1e-9)
    assert sorted(order) == list(range(len(x_ND)))


def test_facility_location_on_random_vectors() -> None:
    x_ND = np.random.default_rng(0).normal(size=(60, 4))
    order = [row for row, _ in coverage.facility_location(x_ND, x_ND)]
    assert order[:20] == naive_facility_location(x_ND, 20)


def test_gains_are_the_fall_of_the_summed_distance() -> None:
    x_ND = np.random.default_rng(1).normal(size=(30, 3))
    distance_NN = np.linalg.norm(x_ND[:, None] - x_ND[None], axis=2)
    chosen: list[int] = []
    for row, gain in coverage.facility_location(x_ND, x_ND):
        if chosen:
            before, after = (distance_NN[rows].min(axis=0).sum() for rows in (chosen, [*chosen, row]))
            assert gain == pytest.approx(before - after, abs=1e-9)
        chosen.append(row)


@settings(max_examples=50)
@given(VECTORS, st.data())
def test_k_center_agrees_with_the_naive_one(vectors: list[tuple[int, int]], data: st.DataObject) -> None:
    x_ND, first = np.array(vectors, np.float64), data.draw(st.integers(0, len(vectors) - 1))
    assert [row for row, _ in coverage.k_center(x_ND, first)] == naive_k_center(x_ND, first, len(x_ND))


@pytest.mark.parametrize("within", ["source", "pool", "clusters"])
def test_groups_share_the_budget_in_proportion(within: str) -> None:
    pool = pool_of({"a": 50, "b": 21, "c": 4}, 2)
    selection = coverage.select_facility_location(pool, 30, 0, FacilityLocationParams(within))  # type: ignore[arg-type]
    if within == "source":
        assert np.bincount(pool.source_N[selection.index_M]).tolist() == largest_remainder([50, 21, 4], 30)
    assert len(selection.index_M) == 30


def test_ties_go_to_the_smaller_id() -> None:
    """Four equal rows at each of two corners, whose ids are in another order than the rows."""
    ids = ["h", "g", "f", "e", "d", "c", "b", "a"]
    feature_ND = np.repeat([[0.0, 0.0], [5.0, 5.0]], 4, axis=0).astype(np.float32)
    pool = Pool(
        ["s"],
        np.zeros(8, int),
        prefix_N=prefixes(ids),
        read_ids=lambda index_M: [ids[row] for row in index_M.tolist()],
        feature_ND=feature_ND,
    )
    selection = coverage.select_facility_location(pool, 3, 0, FacilityLocationParams())
    assert sorted(ids[row] for row in selection.index_M.tolist()) == ["a", "b", "e"]


def test_a_sample_of_representatives_stands_for_a_large_group() -> None:
    pool = replace(pool_of({"a": 300}, 2), feature_ND=np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32))
    assert pool.feature_ND is not None
    distance_NN = np.linalg.norm(pool.feature_ND[:, None] - pool.feature_ND[None], axis=2)

    def coverage_of(params: FacilityLocationParams) -> float:
        return float(distance_NN[coverage.select_facility_location(pool, 20, 0, params).index_M].min(axis=0).mean())

    exact, sampled = coverage_of(FacilityLocationParams()), coverage_of(FacilityLocationParams(representatives=60))
    assert exact <= sampled < 1.2 * exact


def test_a_groups_rows_do_not_depend_on_the_other_groups() -> None:
    pool = pool_of({"a": 50, "b": 50}, 2)
    own_N = np.flatnonzero(pool.source_N == 0)
    both = coverage.select_k_center(pool, 20, 3, CoverageParams()).index_M
    alone = coverage.select_k_center(pool.take(own_N), 10, 3, CoverageParams()).index_M
    assert both[pool.source_N[both] == 0].tolist() == own_N[alone].tolist()


def test_vectors_beyond_the_bound_are_refused() -> None:
    check_size(1_000_000, 12)
    for rows, dimensions in ((10_000_000, 12), (900_000, 5000)):
        with pytest.raises(ValueError, match=str(rows)):
            check_size(rows, dimensions)
