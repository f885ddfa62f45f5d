"""The records that selectors take and return.

N rows of the pool, M rows selected, G groups (clusters or sources), T checkpoints.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from s2l_ray.core.arrays import Float32, Float64, Int64, Integers
from s2l_ray.core.selection.balancing import rows_by_group


@dataclass(frozen=True)
class Pool:
    """The rows to select from, all with status ok, in dataset order. Columns that a selector does not need are None.

    source_N: positions in source_names, whose order is arbitrary. cluster_N: cluster ids. group_by: "source" if
    clusters were fitted inside each source, else "none".
    """

    source_names: Sequence[str]
    source_N: Integers
    cluster_N: Integers | None = None
    losses_NT: Float32 | None = None
    group_by: str = "source"

    def __len__(self) -> int:
        return len(self.source_N)

    def rows_by_source(self) -> dict[str, Int64]:
        """Row numbers of each source that has any, ascending; sources in the order of their names."""
        by_code = rows_by_group(self.source_N)
        return {self.source_names[code]: by_code[code] for code in sorted(by_code, key=self.source_names.__getitem__)}


@dataclass(frozen=True)
class NoParams:
    """The params of a selector that has no keys of its own."""


@dataclass(frozen=True)
class Selection:
    """The selected rows. index_M ascends.

    score_M: what the method ranked by or, for draws, the probability with which the row was included. notes: counts
    for the manifest.
    """

    index_M: Int64
    score_M: Float64
    notes: Mapping[str, int] = field(default_factory=dict)


def selection_from_draws(drawn: Sequence[Int64], group_N: Integers, notes: Mapping[str, int]) -> Selection:
    """The union of drawn rows; the score of a row is the drawn share of its group."""
    index_M = np.sort(np.concatenate([np.empty(0, np.int64), *drawn]))
    _, group_N, size_G = np.unique(group_N, return_inverse=True, return_counts=True)
    share_G = np.bincount(group_N[index_M], minlength=len(size_G)) / size_G
    return Selection(index_M, share_G[group_N[index_M]], notes)
