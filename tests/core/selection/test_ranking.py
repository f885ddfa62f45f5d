"""Rankings against sorting in plain Python."""

from itertools import accumulate
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.core.selection.pool import Pool
from s2l_ray.core.selection.ranking import RankParams, Taken, select_ranked
from tests.core.selection.oracles import largest_remainder, prefixes, ranked

TAKEN: tuple[Taken, ...] = ("lowest", "highest", "middle", "nearest_median")


def ranked_pool(draw: st.DrawFn) -> tuple[Pool, list[str]]:
    """Up to 40 rows with many equal scores, whose ids often agree in the first eight bytes."""
    rows = draw(st.integers(0, 40))
    scores = draw(st.lists(st.sampled_from([0.0, -0.0, 0.5, 1.0, 2.0, 3.25]), min_size=rows, max_size=rows))
    ids = draw(st.permutations([f"{'example-' if row % 3 else ''}{row:03d}" for row in range(rows)]))
    names = ["b", "a", "unused", "c"]
    source_N = np.array(draw(st.lists(st.sampled_from([0, 1, 3]), min_size=rows, max_size=rows)), np.int32)
    cluster_N = np.array(draw(st.lists(st.integers(0, 4), min_size=rows, max_size=rows)), np.int32)
    weight_N = np.array(draw(st.lists(st.integers(1, 9), min_size=rows, max_size=rows)), np.int64)
    pool = Pool(
        names,
        source_N,
        cluster_N,
        score_N=np.array(scores, np.float32),
        prefix_N=prefixes(ids),
        read_ids=lambda index_M: [ids[row] for row in index_M.tolist()],
        weight_N=weight_N if draw(st.booleans()) else None,
    )
    return pool, ids


@st.composite
def cases(draw: st.DrawFn) -> tuple[Pool, list[str], int, str, Taken]:
    pool, ids = ranked_pool(draw)
    return (
        pool,
        ids,
        draw(st.integers(0, pool.amount())),
        draw(st.sampled_from(["pool", "source", "clusters"])),
        draw(st.sampled_from(TAKEN)),
    )


def oracle(pool: Pool, ids: list[str], budget: int, within: str, taken: str) -> list[int]:
    """Groups in order, each with the rows of its quota."""
    names: dict[str, Any] = {
        "pool": [0] * len(pool),
        "source": [pool.source_names[code] for code in pool.source_N.tolist()],
        "clusters": pool.cluster_N.tolist() if pool.cluster_N is not None else [],
    }
    members = [[row for row, name in enumerate(names[within]) if name == group] for group in sorted(set(names[within]))]
    weights = [1] * len(pool) if pool.weight_N is None else pool.weight_N.tolist()
    quotas = largest_remainder([sum(weights[row] for row in group) for group in members], budget)
    selected: list[int] = []
    for group, quota in zip(members, quotas, strict=True):
        scores = pool.score_N[group].astype(float).tolist() if pool.score_N is not None else []
        order = [group[place] for place in ranked(scores, [ids[row] for row in group], taken)] if group else []
        if taken == "middle":
            left = (sum(weights[row] for row in group) - quota) // 2
            before = [0, *accumulate(weights[row] for row in order)]
            order = order[max(start for start, total in enumerate(before) if total <= left) :]
        for row in order:
            quota -= weights[row]
            if quota < 0:
                break
            selected.append(row)
    return sorted(selected)


@settings(max_examples=200)
@given(cases())
def test_rankings_agree_with_sorting(case: tuple[Pool, list[str], int, str, Taken]) -> None:
    pool, ids, budget, within, taken = case
    selection = select_ranked(pool, budget, RankParams(within), taken)  # type: ignore[arg-type]
    assert selection.index_M.tolist() == oracle(pool, ids, budget, within, taken)
    assert np.isnan(selection.probability_M).all()
    if taken != "nearest_median" and pool.score_N is not None:
        assert selection.score_M.tolist() == pool.score_N[selection.index_M].tolist()


def test_ids_are_read_only_for_ties_that_the_prefix_leaves() -> None:
    ids = ["a", "b", "example-1", "example-0", "example-2", "c"]
    read: list[int] = []

    def read_ids(index_M: np.ndarray) -> list[str]:
        read.extend(index_M.tolist())
        return [ids[row] for row in index_M.tolist()]

    score_N = np.array([0, 0, 1, 1, 1, 2], np.float32)
    pool = Pool(["a"], np.zeros(6, int), score_N=score_N, prefix_N=prefixes(ids), read_ids=read_ids)
    assert select_ranked(pool, 3, RankParams(), "lowest").index_M.tolist() == [0, 1, 3]
    assert sorted(set(read)) == [2, 3, 4]
    read.clear()
    assert select_ranked(pool, 1, RankParams(), "lowest").index_M.tolist() == [0]
    assert read == []


def test_the_middle_band_by_hand() -> None:
    pool = Pool(["a"], np.zeros(7, int), score_N=np.array([5, 1, 4, 2, 3, 7, 6], np.float32))
    selection = select_ranked(pool, 3, RankParams(), "middle")
    assert sorted(selection.score_M.tolist()) == [3, 4, 5]


def test_distances_are_from_the_median_of_the_group() -> None:
    pool = Pool(["a", "b"], np.repeat([0, 1], 3), score_N=np.array([0, 1, 2, 10, 11, 13], np.float32))
    selection = select_ranked(pool, 2, RankParams("source"), "nearest_median")
    assert selection.index_M.tolist() == [1, 4]
    assert selection.score_M.tolist() == [0, 0]


def test_a_pool_without_clusters_is_refused() -> None:
    pool = Pool(["a"], np.zeros(2, int), score_N=np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="clusters"):
        select_ranked(pool, 1, RankParams("clusters"), "lowest")
