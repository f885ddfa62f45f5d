"""The columns of a pool, shard by shard, joined by position from the artifacts that hold them.

B rows of a shard, T checkpoints, D dimensions
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.artifacts.facts import CheckpointsFacts, TrajectoriesFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import NO_TARGET_TOKENS, OK, TEXT_FOLDER, token_rows
from s2l_ray.catalog.row_lists import RowList, file_lines, read_column, read_row_list
from s2l_ray.config.budget import budget_unit
from s2l_ray.config.select import Select
from s2l_ray.core.arrays import Bool, Float32, Float64, Floats, Int32, Integers, UInt64
from s2l_ray.core.selection.checkpoint_scores import ColumnParams
from s2l_ray.core.selection.needs import COLUMN, TARGET_TOKENS, At, RecordedSteps
from s2l_ray.core.selection.registry import SELECTORS
from s2l_ray.errors import ConfigError
from s2l_ray.sources.spec import source_uri

Columns = dict[str, np.ndarray]
# the text of a dataset, which has files of its own
TEXT = "text"


class ShardReader:
    """Read what a selection needs of each shard of complete artifacts.

    codes: of the sources read so far, by name. ids: of the rows read so far, for methods that keep vectors.
    """

    def __init__(self, inputs: Mapping[str, Artifact], select: Select, root: str) -> None:
        self.source = inputs.get("trajectories", inputs["dataset"])
        self.shards = {kind: artifact.shards() for kind, artifact in inputs.items()}
        self.shards[TEXT] = inputs["dataset"].shards(TEXT_FOLDER)
        self.codes: dict[str, int] = {}
        self.ids: list[str] = []
        self.keep = read_row_list("keep", [source_uri(path, root) for path in select.keep])
        self.drop = read_row_list("drop", [source_uri(path, root) for path in select.drop])
        self._inputs, self._needs, self._params = inputs, select.needs, select.params
        self._unit = budget_unit(select.budget)
        self._score = SELECTORS[select.method].score
        self._columns_T = columns_of_needs(select, inputs)
        self._file = None
        if isinstance(select.params, ColumnParams):
            self._file = read_column(source_uri(select.params.path, root), select.params.column)
        self._names = self._names_by_kind()
        needs = self._needs
        self._cluster_of_zeros = nearest_to_zero(inputs["clusters"]) if needs.without_targets and needs.clusters else {}

    def read(self, shard: int, start: int) -> Columns:
        """Columns of the rows that belong to the pool. start: the row number of the shard's first row."""
        table = self._read(shard)
        statuses = [OK, NO_TARGET_TOKENS] if self._needs.without_targets else [OK]
        kept_B: Bool = pc.is_in(table["status"], pa.array(statuses)).to_numpy()
        rows = table.filter(pa.array(kept_B))
        columns: Columns = {"number": start + np.flatnonzero(kept_B), "source": self._source_codes(rows)}
        if self.keep is not None:
            columns["keep"] = kept_rows(self.keep, start, table, kept_B)
        if self.drop is not None:
            columns["drop"] = self.drop.mask(start, table["example_id"].to_pylist())[kept_B]
        if self._needs.clusters:
            columns["cluster"] = self._clusters(rows)
        if self._needs.target_tokens:
            columns["target_tokens"] = target_tokens(rows)
        if self._unit in ("target_tokens", "tokens"):
            columns["weight"] = target_tokens(rows) if self._unit == "target_tokens" else tokens(rows)
        if self._score is not None:
            columns["score"] = clipped(self._score(self._values(rows), self._params))
            columns["prefix"] = id_prefixes(rows["example_id"])
        if self._needs.features is not None:
            self.ids += rows["example_id"].to_pylist()
            embedded = self._needs.features == "embeddings"
            columns["feature"] = lists(rows["embedding"]) if embedded else lists(rows["losses"])[:, self._columns_T]
        return columns

    def _read(self, shard: int) -> pa.Table:
        """The columns of one shard, from every artifact that holds some of them."""
        columns = {}
        for kind, names in self._names.items():
            artifact = self._inputs["dataset" if kind == TEXT else kind]
            part = artifact.read_file(self.shards[kind][shard].path, names)
            columns.update({name: part[name] for name in names})
        return pa.table(columns)

    def _names_by_kind(self) -> dict[str, list[str]]:
        """Names of the columns to read from each artifact."""
        needs, base = self._needs, self.source.manifest.kind
        with_targets = TARGET_TOKENS in (needs.quantity, self._unit) or needs.target_tokens
        with_ids = self._score is not None or needs.features or self.keep or self.drop
        names = {"dataset": [], base: ["source", "status", *(["example_id"] if with_ids else [])]}
        if needs.statistic is not None or needs.features == "trajectories":
            statistic = needs.statistic or "loss"
            names["trajectories"].append("losses" if statistic == "loss" else statistic)
        if with_targets and base == "trajectories":
            names["trajectories"].append(TARGET_TOKENS)
        if self._unit == "tokens" or (with_targets and base == "dataset"):
            names["dataset"] += ["input_ids", "target_spans"]
        if self._file is not None and not self._file.by_id:
            names[TEXT] = ["file", "line"]
        if needs.clusters:
            names["clusters"] = ["cluster"]
        if needs.features == "embeddings":
            names["embeddings"] = ["embedding"]
        return {kind: columns for kind, columns in names.items() if columns}

    def _source_codes(self, rows: pa.Table) -> Int32:
        encoded = rows["source"].combine_chunks().dictionary_encode()
        codes = [self.codes.setdefault(name, len(self.codes)) for name in encoded.dictionary.to_pylist()]
        code_B: Int32 = np.asarray([*codes, 0], np.int32)[encoded.indices.to_numpy()]
        return code_B

    def _clusters(self, rows: pa.Table) -> Int32:
        """Cluster of each row, -1 where it has none; rows without target tokens have the cluster of losses 0."""
        cluster_B: Int32 = rows["cluster"].fill_null(-1).to_numpy().copy()
        for row in np.flatnonzero(cluster_B < 0) if self._cluster_of_zeros else ():
            if rows["status"][row].as_py() == NO_TARGET_TOKENS:
                source = rows["source"][row].as_py()
                cluster_B[row] = self._cluster_of_zeros.get(source, self._cluster_of_zeros.get("", -1))
        return cluster_B

    def _values(self, rows: pa.Table) -> Floats:
        """The quantity that the method ranks by, value_BT."""
        quantity = self._needs.quantity
        if quantity == TARGET_TOKENS:
            return target_tokens(rows)[:, None].astype(np.float32)
        if quantity == COLUMN and self._file is not None:
            keys = rows["example_id"].to_pylist() if self._file.by_id else file_lines(rows)
            return self._file.lookup(keys)[:, None]
        return lists(rows["losses" if quantity == "loss" else quantity])[:, self._columns_T]


def columns_of_needs(select: Select, inputs: Mapping[str, Artifact]) -> list[int]:
    """Columns of the trajectories that the method reads. Raises `ConfigError` where one was not recorded."""
    needs = select.needs
    checkpoints = (At.TRAINED,) if needs.features == "trajectories" else needs.checkpoints
    if "trajectories" not in inputs or not checkpoints:
        return []
    trajectories = inputs["trajectories"]
    facts = trajectories.facts(TrajectoriesFacts)
    if needs.statistic not in (None, "loss", *facts.statistics):
        raise ConfigError(
            f"select.method: {select.method} reads {needs.statistic}, which {trajectories.uri} does not record; add it "
            "to score.statistics"
        )
    epoch_ends = None
    if At.FIRST_EPOCH_END in checkpoints and "checkpoints" in trajectories.manifest.inputs:
        epoch_ends = trajectories.input("checkpoints").facts(CheckpointsFacts).epoch_ends
    try:
        return RecordedSteps(facts.steps, epoch_ends).columns(checkpoints)
    except ValueError as error:
        raise ConfigError(f"select.method: {select.method}: {error}") from error


def nearest_to_zero(clusters: Artifact) -> dict[str, int]:
    """The cluster whose centroid is nearest to losses of 0, by source (the empty name for the whole pool).

    Empty for clusters of embeddings: a row without target tokens has no embedding.
    """
    if "trajectories" not in clusters.manifest.inputs:
        return {}
    table = clusters.read_file("centroids.parquet", ["source", "cluster", "centroid"])
    norm_K = np.square(lists(table["centroid"]), dtype=np.float64).sum(axis=1)
    nearest: dict[str, int] = {}
    for row in np.argsort(norm_K, kind="stable").tolist():
        nearest.setdefault(table["source"][row].as_py(), table["cluster"][row].as_py())
    return nearest


def kept_rows(keep: RowList, start: int, table: pa.Table, ok_B: Bool) -> Bool:
    """Which rows of the pool are to be kept. Raises `ConfigError` for one that cannot be selected."""
    ids = table["example_id"].to_pylist()
    mask_B = keep.mask(start, ids)
    rejected = np.flatnonzero(mask_B & ~ok_B)
    if len(rejected):
        row = int(rejected[0])
        raise ConfigError(
            f"select.keep: row {start + row} ({ids[row]}) has status {table['status'][row]}; only rows with status ok "
            "can be kept"
        )
    return mask_B[ok_B]


def lists(column: pa.ChunkedArray) -> Float32:
    """A column of fixed-size lists as value_BD, NaN where a value or the whole list is null."""
    array = column.combine_chunks()
    size = array.type.list_size
    values = array.values.slice(array.offset * size, len(array) * size)
    value_BD: Float32 = values.to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, size)
    value_BD[array.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return value_BD


def target_tokens(rows: pa.Table) -> Integers:
    """Target tokens of each row, as scoring recorded them or from the spans of the dataset."""
    if TARGET_TOKENS in rows.column_names:
        recorded_B: Integers = rows[TARGET_TOKENS].to_numpy()
        return recorded_B
    return token_rows(rows).target_tokens_N.astype(np.int32)


def tokens(rows: pa.Table) -> Integers:
    return token_rows(rows).lengths_N.astype(np.int32)


def clipped(score_B: Float64) -> Float32:
    """Scores in float32; those beyond its range are its largest values."""
    largest = np.finfo(np.float32).max
    score32_B: Float32 = np.clip(score_B, -largest, largest).astype(np.float32)
    return score32_B


def id_prefixes(ids: pa.ChunkedArray) -> UInt64:
    """The first eight bytes of each id as a big-endian number, whose order is that of the ids."""
    return np.array([one[:8] for one in ids.cast(pa.binary()).to_pylist()], "S8").view(">u8").astype(np.uint64)
