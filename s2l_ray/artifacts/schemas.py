"""The tables of every kind of artefact: one Arrow schema each, column names, statuses.

In: nothing. Out: schemas that stages write and readers rely on, and the flat token arrays of a dataset shard.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

OK = "ok"
NO_TARGET_TOKENS = "no_target_tokens"
NON_FINITE = "non_finite"
NOT_SCORED = "not_scored"
FAILED_ROWS = "failed_rows"
"""The note of a unit's file of losses that says which rows could not be scored, and why."""

DATASET = pa.schema(
    [
        ("example_id", pa.string()),
        ("source", pa.string()),
        ("prompt", pa.string()),
        ("response", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("target_spans", pa.list_(pa.int32())),
        ("status", pa.string()),
        ("raw", pa.string()),
        ("file", pa.string()),
        ("line", pa.int64()),
    ]
)

REJECTED = pa.schema(
    [
        ("file", pa.string()),
        ("line", pa.int64()),
        ("source", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("example_id", pa.string()),
    ]
)

CLUSTERS = pa.schema(
    [("example_id", pa.string()), ("cluster", pa.int32()), ("distance", pa.float32())],
)

SUBSET = pa.schema(
    [
        ("example_id", pa.string()),
        ("source", pa.string()),
        ("cluster", pa.int32()),
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("score", pa.float32()),
    ]
)


def losses_schema(statistics: tuple[str, ...]) -> pa.Schema:
    """A unit of scoring: one checkpoint on one shard."""
    columns = [("example_id", pa.string()), ("nll_sum", pa.float64()), ("target_tokens", pa.int32())]
    return pa.schema([*columns, *((name, pa.float32()) for name in statistics)])


def trajectories_schema(checkpoints: int, statistics: tuple[str, ...]) -> pa.Schema:
    """One row an example; `losses` and every further statistic hold one value a checkpoint, in order of the steps."""
    series = pa.list_(pa.float32(), checkpoints)
    return pa.schema(
        [
            ("example_id", pa.string()),
            ("source", pa.string()),
            ("target_tokens", pa.int32()),
            ("status", pa.string()),
            ("losses", series),
            *((name, series) for name in statistics),
        ]
    )


def shard_path(shard: int) -> str:
    """File name of a shard, the same in every kind of artefact."""
    return f"shard-{shard:05d}.parquet"


def step_name(step: int) -> str:
    """Folder name of a checkpoint."""
    return f"step-{step:06d}"


def losses_path(step: int, shard: int) -> str:
    """File name of a unit of scoring inside the trajectories."""
    return f"losses/{step_name(step)}/{shard_path(shard)}"


TokenArrays = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int64]]


def token_arrays(table: pa.Table) -> TokenArrays:
    """Token ids, row offsets [N + 1], target spans [S, 2] and span offsets [N + 1] of dataset rows, flat."""
    ids = table["input_ids"].combine_chunks()
    spans = table["target_spans"].combine_chunks()
    return (
        np.asarray(ids.flatten(), dtype=np.int32),
        _offsets(ids),
        np.asarray(spans.flatten(), dtype=np.int32).reshape(-1, 2),
        _offsets(spans) // 2,
    )


def _offsets(lists: pa.ListArray) -> npt.NDArray[np.int64]:
    offsets = np.asarray(lists.offsets, dtype=np.int64)
    return offsets - offsets[0] if len(offsets) else np.zeros(1, dtype=np.int64)
