"""Training dynamics of dataset cartography (arXiv 2009.10795): JSON lines, usually one file an epoch.

A line is {"guid": 17, "logits_epoch_0": [0.3, -1.2], "gold": 0}: the logits of a classifier during epoch 0 and the
index of the right class. N examples, C classes.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray import storage
from s2l_ray.core.arrays import Float64
from s2l_ray.errors import S2LError

LOGITS, GOLD = "logits_epoch_", "gold"


def read_dynamics(names: Sequence[str], key: str) -> tuple[pa.Table, dict[int, str | int]]:
    """A table with `key` and a column of losses an epoch, and the column of each step: epoch E is step E + 1.

    The loss is -log softmax(logits)[gold]. A row that an epoch lacks has no loss there. Raises `S2LError` for lines
    without the fields.
    """
    from pyarrow import json

    columns: dict[int, pa.ChunkedArray] = {}
    key_N: pa.ChunkedArray | None = None
    for name in names:
        table = json.read_json(storage.open_input(name))
        epochs = [column for column in table.column_names if column.startswith(LOGITS)]
        if key not in table.column_names or GOLD not in table.column_names or not epochs:
            raise S2LError(
                f"{name}: not training dynamics, whose lines hold {key}, {GOLD} and {LOGITS}0; it has "
                f"{', '.join(table.column_names)}. Store other losses as Parquet"
            )
        key_N = table[key] if key_N is None else key_N
        if not pc.all(pc.is_in(table[key], key_N.combine_chunks())).as_py():
            raise S2LError(
                f"{name}: holds rows that {names[0]} lacks; every epoch must cover the rows of the first file"
            )
        order_N = pc.index_in(key_N, table[key].combine_chunks())
        for column in epochs:
            if int(column.removeprefix(LOGITS)) in columns:
                raise S2LError(f"{name}: holds {column}, and so does an earlier file; store each epoch in one file")
            loss_N = pa.array(classifier_losses(name, table[column], table[GOLD]), from_pandas=True)
            columns[int(column.removeprefix(LOGITS))] = loss_N.take(order_N)
    steps: dict[int, str | int] = {epoch + 1: f"{LOGITS}{epoch}" for epoch in sorted(columns)}
    return pa.table({key: key_N, **{f"{LOGITS}{epoch}": columns[epoch] for epoch in sorted(columns)}}), steps


def classifier_losses(name: str, logits_N: pa.ChunkedArray, gold_N: pa.ChunkedArray) -> Float64:
    """Cross entropy of each row; NaN where a logit is not finite."""
    lists = logits_N.combine_chunks()
    classes = len(lists.flatten()) // max(1, len(lists))
    gold = gold_N.to_numpy().astype(np.int64)
    if lists.null_count or classes * len(lists) != len(lists.flatten()) or ((gold < 0) | (gold >= classes)).any():
        raise S2LError(f"{name}: every line needs logits of the same number of classes, and the index of one as gold")
    logits_NC = lists.flatten().to_numpy(zero_copy_only=False).reshape(len(lists), classes).astype(np.float64)
    shifted_NC = logits_NC - logits_NC.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(shifted_NC).sum(axis=1)) - shifted_NC[np.arange(len(gold)), gold])
