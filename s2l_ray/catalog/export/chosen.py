"""The examples of an export: those of a subset, joined with other subsets, of the rest of the pool, or drawn at random.

An example is a position: the shard in the high 32 bits, the row in the low ones. M examples are chosen.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.artifacts.facts import SubsetFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import OK
from s2l_ray.catalog.pool import read_pool
from s2l_ray.config.select import Select
from s2l_ray.core.arrays import Float64, Int64
from s2l_ray.core.selection.baselines import select_random
from s2l_ray.core.selection.pool import NoParams
from s2l_ray.errors import ConfigError, DamagedError

ROW_BITS = 32


@dataclass(frozen=True)
class Choice:
    """The rows of a subset to export, and how.

    union, intersection: other subsets of the same dataset. rest: the rows of the pool that are not selected. control:
    seed of as many random rows instead. weights: add 1 / probability to each row. answers: where the answers of a chat
    are examples, write the selected answers, not whole chats.
    """

    union: tuple[Artifact, ...] = ()
    intersection: tuple[Artifact, ...] = ()
    rest: bool = False
    control: int | None = None
    weights: bool = False
    answers: bool = False


@dataclass(frozen=True)
class Chosen:
    """Examples in the order of the dataset. weight_M: 1 / probability, if asked for."""

    dataset: Artifact
    position_M: Int64
    weight_M: Float64 | None = None

    def shards(self) -> list[int]:
        return [int(shard) for shard in np.unique(self.position_M >> ROW_BITS)]

    def rows(self, shard: int) -> tuple[Int64, list[float] | None]:
        """Rows of the chosen examples in a shard, and their weights."""
        here_M = self.position_M >> ROW_BITS == shard
        row_M = self.position_M[here_M] & ((1 << ROW_BITS) - 1)
        return row_M, None if self.weight_M is None else self.weight_M[here_M].tolist()


def choose_examples(subset: Artifact, choice: Choice) -> Chosen:
    """Raises `ConfigError` for subsets of other datasets, for options that exclude each other, and for no example."""
    dataset = subset.input("dataset")
    position_M = _positions(subset, dataset)
    combined = bool(choice.union or choice.intersection or choice.rest or choice.control is not None)
    if choice.weights:
        if combined:
            raise ConfigError("--sample-weights: only the rows of one subset have weights; export it alone")
        return Chosen(dataset, position_M, _weights(subset))
    if choice.control is not None:
        if choice.union or choice.intersection or choice.rest:
            raise ConfigError("--control: has the budget of one subset; remove --union, --intersection and --rest")
        return Chosen(dataset, _random(subset, dataset, choice.control))
    for other in choice.union:
        position_M = np.union1d(position_M, _positions(other, dataset))
    for other in choice.intersection:
        position_M = np.intersect1d(position_M, _positions(other, dataset))
    if choice.rest:
        position_M = np.setdiff1d(_pool(dataset), position_M)
    if not len(position_M):
        raise ConfigError(f"{subset.uri}: no row is left to export")
    return Chosen(dataset, position_M)


def _positions(subset: Artifact, dataset: Artifact) -> Int64:
    """Positions of a subset, ascending. Raises `DamagedError` where they are not those of its rows in the dataset."""
    if subset.manifest.kind != "subset":
        raise ConfigError(f"{subset.uri}: is a {subset.manifest.kind} artifact, not a subset; `s2l ls ROOT` lists them")
    if subset.manifest.inputs["dataset"] != dataset.manifest.fingerprint:
        raise ConfigError(f"{subset.uri}: was selected from another dataset than {dataset.uri}; name one of the same")
    selected = _sorted(subset, ["example_id", "shard", "row"])
    for shard in selected["shard"].unique().to_pylist():
        here = selected.filter(pc.equal(selected["shard"], shard))
        ids = dataset.read_file(dataset.shards()[shard].path, ["example_id"])["example_id"].take(here["row"])
        if ids.to_pylist() != here["example_id"].to_pylist():
            raise DamagedError(f"{subset.uri}: points to other rows than {dataset.uri} holds")
    return _join(selected["shard"].to_numpy(), selected["row"].to_numpy())


def _sorted(subset: Artifact, columns: list[str]) -> pa.Table:
    return subset.read_table(columns).sort_by([("shard", "ascending"), ("row", "ascending")])


def _join(shard_M: Int64, row_M: Int64) -> Int64:
    return (shard_M.astype(np.int64) << ROW_BITS) | row_M.astype(np.int64)


def _weights(subset: Artifact) -> Float64:
    """1 / probability of the selected rows. Raises `ConfigError` where a row has none."""
    probability = _sorted(subset, ["shard", "row", "probability"])["probability"]
    if probability.null_count:
        method = subset.facts(SubsetFacts).method
        raise ConfigError(
            f"--sample-weights: {method} gives {probability.null_count} rows no probability; remove it",
            page="docs/export.md#which-rows",
        )
    probability_M: Float64 = probability.to_numpy().astype(np.float64)
    return 1 / probability_M


def _random(subset: Artifact, dataset: Artifact, seed: int) -> Int64:
    """Rows that `select: {method: random}` selects with the budget of the subset."""
    facts = subset.facts(SubsetFacts)
    budget = facts.budget if facts.unit == "rows" else {facts.unit: facts.budget}
    select = Select.model_validate({"method": "random", "budget": budget, "seed": seed})
    rows = read_pool({"dataset": dataset}, select, "", lambda *progress: None)
    drawn = select_random(rows.pool, facts.budget, seed, NoParams())
    return np.sort(_join(*rows.positions(drawn.index_M)))


def _pool(dataset: Artifact) -> Int64:
    """Positions of all rows with status ok."""
    rows_S = [
        np.flatnonzero(pc.equal(dataset.read_file(record.path, ["status"])["status"], OK).to_numpy())
        for record in dataset.shards()
    ]
    shards_S = [np.full(len(row_B), shard) for shard, row_B in enumerate(rows_S)]
    return _join(np.concatenate(shards_S), np.concatenate(rows_S))
