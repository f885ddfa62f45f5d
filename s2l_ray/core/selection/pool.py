"""The records that selectors take and return.

N rows of the pool, M rows selected, G groups (clusters or sources), T checkpoints, D dimensions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from s2l_ray.core.arrays import Bool, Float32, Float64, Int64, Integers, UInt64
from s2l_ray.core.selection.balancing import rows_by_group

ReadIds = Callable[[Int64], Sequence[str]]


@dataclass(frozen=True)
class Pool:
    """The rows to select from, all with status ok, in dataset order. Columns that a method does not need are None.

    source_N: positions in source_names, whose order is arbitrary. cluster_N: cluster ids, -1 where there is none.
    group_by: "source" if clusters were fitted inside each source, else "none". score_N: of a ranking method, NaN where
    a value is missing. prefix_N: the first eight bytes of the example_id as a big-endian number; read_ids: the whole
    ids of some rows, for ties that the prefix leaves. weight_N: tokens by which a token budget counts; None counts
    rows. feature_ND: vectors, of methods that compare rows.
    """

    source_names: Sequence[str]
    source_N: Integers
    cluster_N: Integers | None = None
    group_by: str = "source"
    score_N: Float32 | None = None
    prefix_N: UInt64 | None = None
    read_ids: ReadIds | None = None
    target_tokens_N: Integers | None = None
    weight_N: Integers | None = None
    feature_ND: Float32 | None = None

    def __len__(self) -> int:
        return len(self.source_N)

    def take(self, index_M: Int64) -> "Pool":
        """The pool of some of its rows, in the order of index_M."""
        columns = {
            column.name: value[index_M]
            for column in fields(self)
            if isinstance(value := getattr(self, column.name), np.ndarray)
        }
        read_ids = self.read_ids
        own: ReadIds | None = None if read_ids is None else lambda rows_K: read_ids(index_M[rows_K])
        changes: dict[str, Any] = {**columns, "read_ids": own}
        return replace(self, **changes)

    def rows_by_source(self) -> dict[str, Int64]:
        """Row numbers of each source that has any, ascending; sources in the order of their names."""
        by_code = rows_by_group(self.source_N)
        return {self.source_names[code]: by_code[code] for code in sorted(by_code, key=self.source_names.__getitem__)}

    def usable(self) -> Bool:
        """Which rows have every value that the method reads."""
        usable_N = np.ones(len(self), bool)
        if self.cluster_N is not None:
            usable_N &= self.cluster_N >= 0
        if self.score_N is not None:
            usable_N &= ~np.isnan(self.score_N)
        if self.feature_ND is not None:
            usable_N &= np.isfinite(self.feature_ND).all(axis=1)
        return usable_N

    def amount(self) -> int:
        """Size of the pool in the unit of the budget: rows, or tokens."""
        return len(self) if self.weight_N is None else int(self.weight_N.sum(dtype=np.int64))


@dataclass(frozen=True)
class NoParams:
    """The params of a method that has no keys of its own."""


@dataclass(frozen=True)
class Selection:
    """The selected rows. index_M ascends.

    score_M: of a ranking, NaN where there is none. probability_M: with which a method that draws includes the row; NaN
    for rankings. notes: counts for the manifest.
    """

    index_M: Int64
    score_M: Float64
    probability_M: Float64
    notes: Mapping[str, int] = field(default_factory=dict)


def ranked_selection(index_M: Int64, score_M: Float32 | Float64, notes: Mapping[str, int] | None = None) -> Selection:
    """The selection of a ranking, from rows in any order."""
    order_M = np.argsort(index_M)
    return Selection(index_M[order_M], score_M[order_M].astype(np.float64), np.full(len(index_M), np.nan), notes or {})


def drawn_selection(drawn: Sequence[tuple[Int64, float]], notes: Mapping[str, int] | None = None) -> Selection:
    """The union of rows that were drawn, each part with one probability."""
    index_M = np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in drawn)])
    probability_M = np.concatenate([np.empty(0), *(np.full(len(rows), share) for rows, share in drawn)])
    order_M = np.argsort(index_M)
    return Selection(index_M[order_M], np.full(len(index_M), np.nan), probability_M[order_M], notes or {})
