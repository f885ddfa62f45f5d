"""Read the rows that a training worker holds. One shard is in memory at a time."""

from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc

from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import OK, token_arrays
from s2l_ray.core.arrays import Int64
from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.errors import DamagedError

COLUMNS = ("status", "input_ids", "target_spans")


def read_rows(dataset: Artifact, rows_ok: int, indices: Sequence[Int64]) -> list[TokenRows]:
    """The rows of each of `indices`: ascending positions among the rows with status ok, over all shards in order.

    Raises `DamagedError` for a damaged shard, or if the shards do not hold `rows_ok` rows with status ok.
    """
    parts: list[list[TokenRows]] = [[] for _ in indices]
    first = 0
    for table in dataset.read_tables(COLUMNS):
        rows = TokenRows(*token_arrays(table.filter(pc.equal(table["status"], OK))))
        for index, taken in zip(indices, parts, strict=True):
            low, high = np.searchsorted(index, [first, first + len(rows)])
            taken.append(rows.take(index[low:high] - first))
        first += len(rows)
    if first != rows_ok:
        raise DamagedError(f"{dataset.uri}: has {first} rows to train on instead of {rows_ok}")
    return [_concatenate(taken) for taken in parts]


def _concatenate(parts: list[TokenRows]) -> TokenRows:
    return TokenRows(
        np.concatenate([part.ids_X for part in parts]),
        _concatenate_starts([part.starts_N1 for part in parts]),
        np.concatenate([part.spans_S2 for part in parts]),
        _concatenate_starts([part.span_starts_N1 for part in parts]),
    )


def _concatenate_starts(starts: list[Int64]) -> Int64:
    return np.concatenate([[0], np.cumsum(np.concatenate([np.diff(one) for one in starts]))])
