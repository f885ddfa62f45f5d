"""Coverage: greedy selection of rows that are close to all others, or far from each other.

Rows are compared by the Euclidean distance of their loss trajectories or embeddings, inside groups. Memory: ids and
vectors of the pool (at most MOST_ROWS rows and MOST_BYTES), and for one group blocks of BLOCK distances and a heap.

N rows of the pool, G rows of a group, R representatives, C candidates, D dimensions
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from s2l_ray.core.arrays import Float64, Integers
from s2l_ray.core.selection.balancing import amount_of, proportional_quotas, source_rng
from s2l_ray.core.selection.needs import Features, Needs
from s2l_ray.core.selection.pool import Pool, Selection, ranked_selection
from s2l_ray.core.selection.ranking import Within, groups_of

MOST_BYTES, MOST_ROWS = 4 << 30, 1_000_000
BLOCK = 2**22
# (row, gain) in the order in which rows are selected
Greedy = Iterator[tuple[int, float]]


@dataclass(frozen=True)
class CoverageParams:
    """within: the groups inside which rows are compared. features: the vectors by which they are compared."""

    within: Within = "source"
    features: Features = "trajectories"


@dataclass(frozen=True)
class FacilityLocationParams(CoverageParams):
    """representatives: rows of a group that are to be covered: all of them, or a seeded sample of this size."""

    representatives: int = 8192

    def __post_init__(self) -> None:
        if self.representatives < 1:
            raise ValueError(f"representatives is {self.representatives}; write at least 1")


def needs(params: CoverageParams) -> Needs:
    return Needs(features=params.features, clusters=params.within == "clusters")


def check_size(rows: int, dimensions: int) -> None:
    """ValueError for more than MOST_ROWS rows, or vectors of more than MOST_BYTES."""
    if rows > MOST_ROWS or rows * dimensions * 4 > MOST_BYTES:
        raise ValueError(
            f"methods that compare rows take at most {MOST_ROWS} rows and {MOST_BYTES >> 30} GiB of vectors, and the "
            f"pool has {rows} rows of {dimensions} dimensions; prepare a sample (data.limit), or use another method"
        )


def select_facility_location(pool: Pool, budget: int, seed: int, params: FacilityLocationParams) -> Selection:
    """Maximise sum over i of max over selected j of sim(i, j), greedily, where sim = a constant - distance.

    The score is the gain of each row. Lazy evaluation: gains only fall as rows are selected.
    """

    def greedy(x_GD: Float64, rng: np.random.Generator) -> Greedy:
        if len(x_GD) <= params.representatives:
            return facility_location(x_GD, x_GD)
        drawn = np.sort(rng.choice(len(x_GD), params.representatives, replace=False))
        return facility_location(x_GD, x_GD[drawn])

    return _select_greedily(pool, budget, seed, params, greedy)


def select_k_center(pool: Pool, budget: int, seed: int, params: CoverageParams) -> Selection:
    """Select the row farthest from those selected, from a seeded first row in each group. The score is the distance."""

    def greedy(x_GD: Float64, rng: np.random.Generator) -> Greedy:
        return k_center(x_GD, int(rng.integers(len(x_GD))))

    return _select_greedily(pool, budget, seed, params, greedy)


def facility_location(x_GD: Float64, representative_RD: Float64) -> Greedy:
    """Rows in the order of greedy facility location, with the fall of the representatives' summed distance.

    The gain of the first row, which has no row before it, is NaN. Ties go to the first row.
    """
    first = int(
        np.argmin(np.concatenate([distance_CR.sum(axis=1) for distance_CR in _blocks(x_GD, representative_RD)]))
    )
    yield first, np.nan
    nearest_R = _distances(x_GD[first : first + 1], representative_RD)[0]
    gains = [_gains(distance_CR, nearest_R) for distance_CR in _blocks(x_GD, representative_RD)]
    heap = [(-gain, row, 1) for row, gain in enumerate(np.concatenate(gains).tolist()) if row != first]
    heapq.heapify(heap)
    selected = 1
    while heap:
        gain, row, computed_at = heap[0]
        distance_1R = _distances(x_GD[row : row + 1], representative_RD)
        if computed_at == selected:
            heapq.heappop(heap)
            nearest_R = np.minimum(nearest_R, distance_1R[0])
            selected += 1
            yield row, -gain
        else:
            heapq.heapreplace(heap, (-float(_gains(distance_1R, nearest_R)[0]), row, selected))


def k_center(x_GD: Float64, first: int) -> Greedy:
    """Rows in the order of farthest-point selection from `first`, with their distances; ties go to the first row."""
    nearest_G = np.full(len(x_GD), np.inf)
    row, distance = first, np.nan
    for _ in range(len(x_GD)):
        yield row, distance
        np.minimum(nearest_G, _distances(x_GD[row : row + 1], x_GD)[0], out=nearest_G)
        nearest_G[row] = -np.inf
        row = int(np.argmax(nearest_G))
        distance = float(nearest_G[row])


def _select_greedily(
    pool: Pool, budget: int, seed: int, params: CoverageParams, greedy: Callable[[Float64, np.random.Generator], Greedy]
) -> Selection:
    if pool.feature_ND is None:
        raise ValueError("coverage needs a vector for every row and the pool has none")
    groups = groups_of(pool, params.within)
    quotas = proportional_quotas([amount_of(rows_G, pool.weight_N) for rows_G in groups], budget)
    index: list[int] = []
    score: list[float] = []
    for rows_G, quota in zip(groups, quotas, strict=True):
        sorted_G, first_id = _sorted_by_id(pool, rows_G)
        order = greedy(pool.feature_ND[sorted_G].astype(np.float64), source_rng(seed, first_id))
        left = quota
        while left > 0:
            row, gain = next(order)
            left -= 1 if pool.weight_N is None else int(pool.weight_N[sorted_G[row]])
            if left < 0:
                break
            index.append(int(sorted_G[row]))
            score.append(gain)
    return ranked_selection(np.array(index, np.int64), np.array(score, np.float64))


def _sorted_by_id(pool: Pool, rows_G: Integers) -> tuple[Integers, str]:
    """The rows in order of their ids, and the first id, which names the group's random stream."""
    if pool.read_ids is None:
        return rows_G, str(rows_G[0])
    ids = np.asarray(pool.read_ids(rows_G.astype(np.int64)), object)
    order_G = np.argsort(ids, kind="stable")
    return rows_G[order_G], str(ids[order_G[0]])


def _blocks(x_GD: Float64, representative_RD: Float64) -> Iterator[Float64]:
    size = max(1, BLOCK // len(representative_RD))
    for start in range(0, len(x_GD), size):
        yield _distances(x_GD[start : start + size], representative_RD)


def _distances(x_CD: Float64, representative_RD: Float64) -> Float64:
    distance_CR: Float64 = cdist(x_CD, representative_RD)
    return distance_CR


def _gains(distance_CR: Float64, nearest_R: Float64) -> Float64:
    """Fall of the summed distance if a candidate were selected."""
    gain_C: Float64 = np.maximum(nearest_R - distance_CR, 0).sum(axis=1)
    return gain_C
