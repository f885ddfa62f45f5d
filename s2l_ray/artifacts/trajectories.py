"""A shard of trajectories: written by `score` and by imports, in the row order of the dataset's shard."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from s2l_ray.artifacts import schemas
from s2l_ray.artifacts.tables import FileRecord, write_table
from s2l_ray.core.arrays import Bool, Float32, Float64, Objects


@dataclass(frozen=True)
class TrajectoryShard:
    """A shard of trajectories: its file, rows by status, and rows with status ok by source.

    attention: units by the attention that scored them; none for imported losses.
    """

    file: FileRecord
    statuses: dict[str, int]
    ok_by_source: dict[str, int]
    attention: dict[str, int] = field(default_factory=dict)


def write_trajectory_shard(
    folder: str,
    shard: int,
    rows: pa.Table,
    target_tokens: pa.Array,
    status_N: Objects,
    series: Mapping[str, Float32 | Float64],
) -> TrajectoryShard:
    """Write one shard. rows: with example_id and source. series: losses first, each [N, T], NaN where missing."""
    without_targets_N = status_N == schemas.NO_TARGET_TOKENS
    steps = next(iter(series.values())).shape[1]
    statistics = tuple(name for name in series if name != "losses")
    table = pa.Table.from_arrays(
        [
            rows["example_id"],
            rows["source"],
            target_tokens,
            pa.array(status_N, pa.string()),
            *(_lists(value_NT, without_targets_N) for value_NT in series.values()),
        ],
        schema=schemas.trajectories_schema(steps, statistics),
    )
    ok_sources = rows["source"].filter(pa.array(status_N == schemas.OK)).to_pylist()
    file = write_table(folder, schemas.shard_path(shard), table)
    return TrajectoryShard(file, dict(Counter(status_N.tolist())), dict(Counter(ok_sources)))


def _lists(value_NT: Float64 | Float32, null_N: Bool) -> pa.FixedSizeListArray:
    """One list a row: null where `null_N`, a null entry where a value is missing."""
    values = pa.array(value_NT.astype(np.float32).reshape(-1), from_pandas=True)
    return pa.FixedSizeListArray.from_arrays(values, value_NT.shape[1], mask=pa.array(null_N))
