"""Subsets: their summary, and the overlap of two, in whole and by source.

Rows of one dataset are matched by position, rows of different datasets by example_id.
"""

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.artifacts.facts import DatasetFacts, SubsetFacts
from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.artifacts.schemas import token_rows
from s2l_ray.core.agreement import SetAgreement, set_agreement
from s2l_ray.core.arrays import Int32

ROW_BITS = 32

Named = tuple[str, Artifact]


@dataclass(frozen=True)
class SubsetSummary:
    """One subset. pool: rows that it was selected from. seconds: of the stage. target_tokens: None without tokens."""

    name: str
    uri: str
    method: str
    rows: int
    pool: int
    by_source: dict[str, int]
    seconds: float | None
    target_tokens: int | None

    @property
    def mean_length(self) -> float | None:
        """Target tokens of a row on average."""
        return self.target_tokens / self.rows if self.target_tokens is not None and self.rows else None


@dataclass(frozen=True)
class SubsetPair:
    """Two subsets, in whole and by source. by_chance: expected overlap of random subsets of these sizes."""

    first: str
    second: str
    rows: SetAgreement
    by_chance: float | None
    by_source: dict[str, SetAgreement]


def summarize(name: str, subset: Artifact) -> SubsetSummary:
    facts, counts = subset.facts(SubsetFacts), subset.manifest.counts
    return SubsetSummary(
        name,
        subset.uri,
        facts.method,
        counts.kept,
        facts.pool,
        facts.by_source,
        subset.manifest.timings.get("seconds"),
        _target_tokens(subset),
    )


def _target_tokens(subset: Artifact) -> int | None:
    """Target tokens of the selected rows; None for a dataset without tokens."""
    dataset = subset.input("dataset")
    if not dataset.facts(DatasetFacts).target_tokens:
        return None
    lengths = _row_lengths(dataset.uri)
    table = subset.read_table(["shard", "row"])
    shard_M, row_M = (table[name].to_numpy() for name in ("shard", "row"))
    return int(
        sum(lengths[shard][row_M[shard_M == shard]].sum(dtype=np.int64) for shard in np.unique(shard_M).tolist())
    )


@lru_cache(maxsize=1)  # the subsets of an experiment are of one dataset
def _row_lengths(dataset: str) -> list[Int32]:
    """Target tokens of every row, by shard."""
    tables = open_artifact(dataset).read_tables(["input_ids", "target_spans"])
    return [token_rows(table).target_tokens_N.astype(np.int32) for table in tables]


def compare_subsets(first: Named, second: Named) -> SubsetPair:
    """Overlap of two subsets, in whole and by source."""
    tables = [one.read_table(["example_id", "source", "shard", "row"]) for _, one in (first, second)]
    key = _row_ids if _same_dataset(first[1], second[1]) else _example_ids
    keys = [key(table) for table in tables]
    shared = pc.is_in(keys[0], keys[1])
    sizes = [Counter(table["source"].to_pylist()) for table in tables]
    both = Counter(tables[0]["source"].filter(shared).to_pylist())
    rows = set_agreement(len(tables[0]), len(tables[1]), sum(both.values()))
    pool = max(one.facts(SubsetFacts).pool for _, one in (first, second))
    by_chance = max(rows.first, rows.second) / pool if pool else None
    sources = sorted(sizes[0] | sizes[1])
    by_source = {name: set_agreement(sizes[0][name], sizes[1][name], both[name]) for name in sources}
    return SubsetPair(first[0], second[0], rows, by_chance, by_source)


def _same_dataset(first: Artifact, second: Artifact) -> bool:
    return first.input("dataset").uri == second.input("dataset").uri


def _row_ids(table: pa.Table) -> pa.Array:
    """The position of each row in its dataset as one number."""
    shard_M, row_M = (table[name].to_numpy().astype(np.int64) for name in ("shard", "row"))
    return pa.array((shard_M << ROW_BITS) + row_M)


def _example_ids(table: pa.Table) -> pa.Array:
    return table["example_id"].combine_chunks()
