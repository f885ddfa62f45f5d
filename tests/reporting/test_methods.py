"""Overlaps with other methods, against rankings by NumPy."""

import numpy as np
import pytest

from s2l_ray.reporting.methods import methods
from tests.support.report_store import ReportStore


def test_overlaps_are_those_of_the_rankings(store: ReportStore) -> None:
    found = methods(store.parts)
    assert found is not None
    overlaps = {one.method: one for one in found.overlaps}
    last = np.asarray([row.losses[-1] for row in store.pool])
    budget = len(store.selected)
    highest = set(np.argsort(-last)[:budget].tolist())
    shared = len(highest & set(store.selected))
    one = overlaps["loss_high"]
    assert (one.rows, one.shared, one.overlap) == (budget, shared, shared / budget)
    assert one.by_chance == pytest.approx(budget / len(store.pool))
    assert [one.overlap for one in found.overlaps] == sorted((one.overlap for one in found.overlaps), reverse=True)


def test_methods_without_further_scoring_are_compared(store: ReportStore) -> None:
    found = methods(store.parts)
    assert found is not None
    compared = {one.method for one in found.overlaps}
    assert {"random", "longest", "source_balanced", "random_clusters", "loss_low"} <= compared
    assert not {"s2l", "el2n", "confidence", "column", "facility_location", "k_center"} & compared


def test_a_method_that_draws_has_a_stability(store: ReportStore) -> None:
    found = methods(store.parts)
    assert found is not None and found.stability is not None
    assert 0 <= found.stability.lowest_overlap <= found.stability.mean_overlap <= 1


def test_without_trajectories_only_lengths_and_sources_are_compared(store: ReportStore) -> None:
    parts = {kind: store.parts[kind] for kind in ("dataset", "subset")}
    found = methods(parts)
    assert found is not None
    assert {one.method for one in found.overlaps} == {"random", "source_balanced", "stratified", "longest", "shortest"}
