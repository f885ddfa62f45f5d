"""The pool of a report: one streaming pass over the shards, into columns of a fixed size a row.

N rows of the pool, B rows of a shard, T checkpoints
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from s2l_ray.artifacts.facts import TrajectoriesFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import OK, TEXT_FOLDER
from s2l_ray.catalog.pool import shard_and_row
from s2l_ray.catalog.pool_columns import Columns, lists, target_tokens
from s2l_ray.core.arrays import Bool, Float32, Int32, Int64, UInt64
from s2l_ray.core.diagnostics import NO_TEXT, Moments, Plane, TrajectoryStatistics, joined, trajectory_statistics
from s2l_ray.core.selection.balancing import rows_by_group

PROBABILITY = "mean_probability"

Parts = Mapping[str, Artifact]
"""Complete artifacts of one job, by kind; the dataset always."""


@dataclass(frozen=True)
class Trajectories:
    """Statistics of the trajectories of a pool over its trained checkpoints.

    quantity: the statistic of which mean and spread (the standard deviation) are taken, over the checkpoints.
    """

    known: TrajectoryStatistics
    plane: Plane
    quantity: str
    mean_N: Float32
    spread_N: Float32


@dataclass(frozen=True)
class PoolColumns:
    """The rows that have status ok or are selected, in dataset order. number_N: their row numbers in the dataset.

    start_S: row number of the first row of each shard. source_N: positions in `sources`. cluster_N: -1 for rows without
    a cluster; None without clusters. distance_N: to the centroid of the cluster. text_N: hashes of prompt and response
    without case, digits, punctuation and spaces; None without trajectories.
    """

    start_S: Int64
    sources: list[str]
    number_N: Int64
    source_N: Int32
    tokens_N: Int32
    selected_N: Bool
    cluster_N: Int32 | None = None
    distance_N: Float32 | None = None
    text_N: UInt64 | None = None
    trajectories: Trajectories | None = None

    def __len__(self) -> int:
        return len(self.number_N)


def read_columns(parts: Parts) -> PoolColumns:
    """The columns of all shards. Trajectories are read where they exist, since they hold status and lengths."""
    start_S = first_rows(parts["dataset"])
    selected_M = selected_numbers(parts, start_S)
    codes: dict[str, int] = {}
    reader = _Reader(parts)
    read = [reader.read(shard, start, selected_M, codes) for shard, start in enumerate(start_S.tolist())]
    number_N = _concatenated([one["number"] for one in read], np.int64)
    columns = {
        name: [one[name] for one in read if name in one] for name in ("cluster", "distance", "text", "mean", "spread")
    }
    clustered = "clusters" in parts
    return PoolColumns(
        start_S,
        list(codes),
        number_N,
        _concatenated([one["source"] for one in read], np.int32),
        _concatenated([one["tokens"] for one in read], np.int32),
        np.isin(number_N, selected_M),
        _concatenated(columns["cluster"], np.int32) if clustered else None,
        _concatenated(columns["distance"], np.float32) if clustered else None,
        _concatenated(columns["text"], np.uint64) if columns["text"] else None,
        reader.trajectories(columns["mean"], columns["spread"]),
    )


def first_rows(artifact: Artifact) -> Int64:
    """The row number of the first row of each shard."""
    rows = [record.rows or 0 for record in artifact.shards()]
    return np.concatenate([[0], np.cumsum(rows)])[:-1].astype(np.int64)


def selected_numbers(parts: Parts, start_S: Int64) -> Int64:
    """Row numbers of the subset, in its order; none without a subset."""
    if "subset" not in parts:
        return np.empty(0, np.int64)
    table = parts["subset"].read_table(["shard", "row"])
    number_M: Int64 = start_S[table["shard"].to_numpy()] + table["row"].to_numpy()
    return number_M


class _Reader:
    """Read the shards in order; what is known of all trajectories accumulates."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._known: list[TrajectoryStatistics] = []
        self._columns_T = trained_columns(parts)
        self._moments = Moments(len(self._columns_T))
        self._quantity = "loss"
        if self._columns_T and PROBABILITY in parts["trajectories"].facts(TrajectoriesFacts).statistics:
            self._quantity = PROBABILITY

    def read(self, shard: int, start: int, selected_M: Int64, codes: dict[str, int]) -> Columns:
        """The columns of one shard by name."""
        parts = self._parts
        base = parts.get("trajectories", parts["dataset"])
        names = ["target_tokens"] if "trajectories" in parts else ["input_ids", "target_spans"]
        names += dict.fromkeys(["losses", self._statistic]) if self._columns_T else ()
        table = base.read_file(base.shards()[shard].path, ["source", "status", *names])
        number_B = start + np.arange(len(table))
        kept_B: Bool = pc.equal(table["status"], OK).to_numpy() | np.isin(number_B, selected_M)
        rows = table.filter(pa.array(kept_B))
        columns: Columns = {
            "number": number_B[kept_B],
            "source": _codes(rows["source"], codes),
            "tokens": target_tokens(rows),
        }
        if "clusters" in parts:
            clusters = parts["clusters"]
            own = clusters.read_file(clusters.shards()[shard].path, ["cluster", "distance"]).filter(pa.array(kept_B))
            columns["cluster"] = own["cluster"].fill_null(-1).to_numpy()
            columns["distance"] = own["distance"].to_numpy()
        if self._columns_T:
            columns |= self._add_trajectories(rows)
            dataset = parts["dataset"]
            texts = dataset.read_file(dataset.shards(TEXT_FOLDER)[shard].path, ["prompt", "response"])
            columns["text"] = text_hashes(texts.filter(pa.array(kept_B)))
        return columns

    @property
    def _statistic(self) -> str:
        """The column of the quantity."""
        return "losses" if self._quantity == "loss" else self._quantity

    def _add_trajectories(self, rows: pa.Table) -> Columns:
        loss_BT = lists(rows["losses"])[:, self._columns_T]
        value_BT = lists(rows[self._statistic])[:, self._columns_T]
        self._known.append(trajectory_statistics(loss_BT))
        self._moments.add(loss_BT[np.isfinite(loss_BT).all(axis=1)])
        return {"mean": value_BT.mean(axis=1), "spread": value_BT.std(axis=1)}

    def trajectories(self, mean: Sequence[Float32], spread: Sequence[Float32]) -> Trajectories | None:
        """The statistics of all shards; None without trajectories."""
        if not self._columns_T:
            return None
        columns = (_concatenated(one, np.float32) for one in (mean, spread))
        return Trajectories(joined(self._known), self._moments.plane(), self._quantity, *columns)


def text_hashes(rows: pa.Table) -> UInt64:
    """Hashes of the letters of prompt and response; NO_TEXT for rows without a letter."""
    texts = pc.binary_join_element_wise(rows["prompt"].fill_null(""), rows["response"].fill_null(""), " ")
    letters = pc.replace_substring_regex(pc.utf8_lower(texts), r"[^\pL]+", "")
    hashes = (xxhash.xxh3_64_intdigest(text) if text else NO_TEXT for text in letters.cast(pa.binary()).to_pylist())
    return np.fromiter(hashes, np.uint64, len(rows))


def trained_columns(parts: Parts) -> list[int]:
    """Columns of the trajectories that belong to trained checkpoints; none without trajectories."""
    if "trajectories" not in parts:
        return []
    steps = parts["trajectories"].facts(TrajectoriesFacts).steps
    return [column for column, step in enumerate(steps) if step > 0]


def take_rows(
    artifact: Artifact, start_S: Int64, number_M: Int64, names: Sequence[str], folder: str | None = None
) -> pa.Table:
    """Columns of the rows with these ascending numbers. folder: of a dataset, the part that holds the columns."""
    shards = artifact.shards(folder)
    shard_M, row_M = shard_and_row(start_S, number_M)
    tables = [
        artifact.read_file(shards[shard].path, list(names)).take(pa.array(row_M[at_K]))
        for shard, at_K in rows_by_group(shard_M).items()
    ]
    return pa.concat_tables(tables) if tables else artifact.read_file(shards[0].path, list(names)).slice(0, 0)


def _concatenated(parts: Sequence[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate([np.empty(0, kind), *parts]).astype(kind)


def _codes(names: pa.ChunkedArray, codes: dict[str, int]) -> Int32:
    """Positions of source names; new names are added to `codes`."""
    encoded = names.combine_chunks().dictionary_encode()
    known = [codes.setdefault(name, len(codes)) for name in encoded.dictionary.to_pylist()]
    code_B: Int32 = np.asarray([*known, 0], np.int32)[encoded.indices.to_numpy()]
    return code_B
