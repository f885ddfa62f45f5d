"""The rows of a training, read by each of its workers. Tokens to train on are in a temporary file, and not in memory.

M rows
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import HELD_OUT_FOLDER, OK, TOKENS, TOKENS_FOLDER, token_rows
from s2l_ray.core.arrays import Int64
from s2l_ray.core.data.token_rows import TokenRows
from s2l_ray.errors import DamagedError, S2LError

SELECTED_COLUMNS = ("example_id", "status", "input_ids", "target_spans")


def read_selected_rows(dataset: Artifact, subset: Artifact) -> TokenRows:
    """The rows of a subset, in the order of the dataset, which may hold the same rows in other tokens. Tokens on disk.

    Raises `S2LError` where a row of the dataset is another one, or has no target token.
    """
    selected = subset.read_table(["example_id", "shard", "row"])
    selected = selected.sort_by([("shard", "ascending"), ("row", "ascending")])
    return TokenRows.on_disk(_read_selected(dataset, selected))


def _read_selected(dataset: Artifact, selected: pa.Table) -> Iterator[TokenRows]:
    shards = dataset.shards()
    starts = np.searchsorted(selected["shard"].to_numpy(), np.arange(len(shards) + 1)).tolist()
    for record, (start, end) in zip(shards, pairwise(starts), strict=True):
        if start < end:
            own = selected.slice(start, end - start)
            table = dataset.read_file(record.path, SELECTED_COLUMNS).take(own["row"])
            _check_selected(table, own, dataset.uri)
            yield token_rows(table)


def _check_selected(table: pa.Table, selected: pa.Table, uri: str) -> None:
    if table["example_id"] != selected["example_id"]:
        raise S2LError(
            f"{uri}: with target.tokenizer other rows are rejected, so that the selected rows are at other positions; "
            "select with the tokenizer of the target (data.tokenizer)"
        )
    if missing := len(table) - pc.sum(pc.equal(table["status"], OK)).as_py():
        raise S2LError(f"{uri}: {missing} selected rows have no target token in it; raise data.max_length")


def read_rows(dataset: Artifact, rows_ok: int, index_M: Int64) -> TokenRows:
    """The rows `index_M`: ascending positions among the rows with status ok, over all shards in order. Tokens on disk.

    Raises `DamagedError` for a damaged shard, or if the shards do not hold `rows_ok` rows with status ok.
    """
    return TokenRows.on_disk(_read_some(dataset, rows_ok, index_M))


def _read_some(dataset: Artifact, rows_ok: int, index_M: Int64) -> Iterator[TokenRows]:
    first = 0
    for rows in _read_ok_rows(dataset, TOKENS_FOLDER):
        low, high = np.searchsorted(index_M, [first, first + len(rows)])
        yield rows.take(index_M[low:high] - first)
        first += len(rows)
    if first != rows_ok:
        raise DamagedError(f"{dataset.uri}: has {first} rows to train on instead of {rows_ok}")


def read_held_out_rows(dataset: Artifact) -> TokenRows:
    """The held-out rows with status ok; none in a dataset without them."""
    none = token_rows(TOKENS.empty_table())
    return TokenRows.concatenate([none, *_read_ok_rows(dataset, HELD_OUT_FOLDER + TOKENS_FOLDER)])


def _read_ok_rows(dataset: Artifact, folder: str) -> Iterator[TokenRows]:
    for record in dataset.shards(folder):
        table = dataset.read_file(record.path, ["status", "input_ids", "target_spans"])
        yield token_rows(table.filter(pc.equal(table["status"], OK)))
