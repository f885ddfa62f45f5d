"""The rows that a training worker holds: from dataset shards to `TokenRows`.

In: a finished dataset and positions among its rows with status ok, counted over all shards in order. Out: their tokens.
One shard is in memory at a time, and of it what was asked for stays.
"""

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import OK, token_arrays
from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.errors import DamagedError

Index = npt.NDArray[np.int64]
COLUMNS = ("status", "input_ids", "target_spans")


def read_rows(dataset: Artifact, rows_ok: int, indices: list[Index]) -> list[TokenRows]:
    """For each of the ascending `indices` the rows it names.

    Raises `DamagedError` where a shard is damaged, or where the shards do not hold `rows_ok` rows with status ok.
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
        raise DamagedError(f"{dataset.uri}: holds {first} rows to train on, not {rows_ok}; build it again")
    return [_join(taken) for taken in parts]


def _join(parts: list[TokenRows]) -> TokenRows:
    return TokenRows(
        np.concatenate([part.ids_X for part in parts]),
        _join_starts([part.starts_N1 for part in parts]),
        np.concatenate([part.spans_S2 for part in parts]),
        _join_starts([part.span_starts_N1 for part in parts]),
    )


def _join_starts(starts: list[Index]) -> Index:
    return np.concatenate([[0], np.cumsum(np.concatenate([np.diff(one) for one in starts]))])
