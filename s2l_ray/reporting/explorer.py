"""explorer.parquet: one row for each row of the pool, for tools that open Parquet files.

example_id, text, source, file, line, target_tokens, selected; with clusters: cluster, distance; with trajectories:
trajectory (the loss at every checkpoint), mean, spread, x, y (see `Maps`), and one boolean column a flag.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from s2l_ray.artifacts.schemas import TEXT_FOLDER
from s2l_ray.artifacts.tables import write_row_groups
from s2l_ray.catalog.pool_columns import lists
from s2l_ray.core.embedding import text_to_embed
from s2l_ray.reporting.pool import Parts, PoolColumns, Trajectories, trained_columns
from s2l_ray.reporting.rows import Flagged

MOST_CHARACTERS = 2000


def write_explorer(folder: str, name: str, parts: Parts, columns: PoolColumns, flagged: Flagged, *, text: bool) -> None:
    """Write the table, one row group a shard. Texts are cut at `MOST_CHARACTERS`; without text the column is null."""
    tables = _tables(parts, columns, flagged, text)
    first = next(tables)
    with write_row_groups(folder, name, first.schema) as writer:
        writer.write(first)
        for table in tables:
            writer.write(table)


def _tables(parts: Parts, columns: PoolColumns, flagged: Flagged, text: bool) -> Iterator[pa.Table]:
    """The rows of each shard, at least one table."""
    ends = [*columns.start_S[1:].tolist(), None]
    for shard, (start, end) in enumerate(zip(columns.start_S.tolist(), ends, strict=True)):
        first = int(np.searchsorted(columns.number_N, start))
        last = len(columns) if end is None else int(np.searchsorted(columns.number_N, end))
        here = slice(first, last)
        rows = pa.array(columns.number_N[here] - start)
        yield pa.table(
            {
                **_of_dataset(parts, shard, rows, text),
                **_of_pool(columns, flagged, here),
                **_of_trajectories(parts, columns.trajectories, shard, rows, here),
            }
        )


def _of_dataset(parts: Parts, shard: int, rows: pa.Array, text: bool) -> dict[str, pa.Array]:
    dataset = parts["dataset"]
    ids = dataset.read_file(dataset.shards()[shard].path, ["example_id"]).take(rows)
    names = ["file", "line", *(["prompt", "response"] if text else [])]
    stored = dataset.read_file(dataset.shards(TEXT_FOLDER)[shard].path, names).take(rows)
    texts: list[str | None] = [None] * len(rows)
    if text:
        pairs = zip(stored["prompt"].to_pylist(), stored["response"].to_pylist(), strict=True)
        texts = [_text(prompt or "", response or "") for prompt, response in pairs]
    return {
        "example_id": ids["example_id"].combine_chunks(),
        "text": pa.array(texts, pa.string()),
        "file": stored["file"].combine_chunks(),
        "line": stored["line"].combine_chunks(),
    }


def _text(prompt: str, response: str) -> str:
    return f"{text_to_embed(prompt, '', 'prompt')}\n\n{response}"[:MOST_CHARACTERS]


def _of_pool(columns: PoolColumns, flagged: Flagged, here: slice) -> dict[str, pa.Array]:
    names = pa.array(columns.sources, pa.string())
    found = {
        "source": names.take(pa.array(columns.source_N[here])),
        "target_tokens": pa.array(columns.tokens_N[here]),
        "selected": pa.array(columns.selected_N[here]),
    }
    if columns.cluster_N is not None and columns.distance_N is not None:
        cluster_B = columns.cluster_N[here]
        found["cluster"] = pa.array(cluster_B, mask=cluster_B < 0)
        found["distance"] = pa.array(columns.distance_N[here], from_pandas=True)
    return found | {name: pa.array(one.mask_N[here]) for name, one in flagged.items()}


def _of_trajectories(
    parts: Parts, known: Trajectories | None, shard: int, rows: pa.Array, here: slice
) -> dict[str, pa.Array]:
    if known is None:
        return {}
    trajectories = parts["trajectories"]
    losses = trajectories.read_file(trajectories.shards()[shard].path, ["losses"]).take(rows)["losses"]
    coordinate_B2 = known.plane.project(lists(losses)[:, trained_columns(parts)])
    return {
        "trajectory": losses.combine_chunks(),
        "mean": pa.array(known.mean_N[here], from_pandas=True),
        "spread": pa.array(known.spread_N[here], from_pandas=True),
        "x": pa.array(coordinate_B2[:, 0], from_pandas=True),
        "y": pa.array(coordinate_B2[:, 1], from_pandas=True),
    }
