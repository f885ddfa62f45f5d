"""Which rows a fit takes where the pool is too large for it."""

import numpy as np

from s2l_ray.stages.cluster_workers import fit_rows


def test_all_rows_where_they_fit() -> None:
    taken = fit_rows({"a": 5, "b": 2}, most=7, k=3, seed=0)
    assert {group: rows.tolist() for group, rows in taken.items()} == {"a": [0, 1, 2, 3, 4], "b": [0, 1]}


def test_a_sample_keeps_small_groups_and_the_shares_of_the_others() -> None:
    taken = fit_rows({"large": 900_000, "middle": 99_990, "small": 10}, most=10_000, k=20, seed=1)
    assert len(taken["large"]) == 9_000 and len(taken["middle"]) == 999 and len(taken["small"]) == 10
    for group, rows in taken.items():
        assert np.all(np.diff(rows) > 0), group
    again = fit_rows({"small": 10, "middle": 99_990, "large": 900_000}, most=10_000, k=20, seed=1)
    assert all(np.array_equal(taken[group], again[group]) for group in taken)
    other = fit_rows({"large": 900_000, "middle": 99_990, "small": 10}, most=10_000, k=20, seed=2)
    assert not np.array_equal(taken["large"], other["large"])
