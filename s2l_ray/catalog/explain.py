"""Explanation of one row: why it is in a subset or not, from the artifacts that the subset was made from.

Tables are read one shard at a time, and the columns of ids, files and lines are searched in order.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.artifacts.facts import TrajectoriesFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import HELD_OUT_FOLDER, OK, TEXT_FOLDER, TOKENS_FOLDER, shard_path, token_rows
from s2l_ray.catalog.compare import Compared
from s2l_ray.catalog.comparison.rankings import RowRank, rank_of_row
from s2l_ray.errors import ConfigError

Outcome = Literal["selected", "not selected", "not in the pool", "held out", "rejected"]
# of an example_id; a row number is padded with zeros
ID_DIGITS = 32
FILE_AND_LINE = re.compile(r"(?P<file>.+):(?P<line>\d+)")


@dataclass(frozen=True)
class GroupCounts:
    """Rows of a source or cluster that could be selected, and those that were."""

    name: str
    rows: int
    selected: int


@dataclass(frozen=True)
class Explanation:
    """One row of the input. Values are None where they do not exist, as for rejected rows.

    reason: of a rejected row, or the status of a row that cannot be selected. losses: mean negative log-likelihood of a
    target token, by step of the checkpoint. distance: to the centroid of the cluster. score: of a selected row, by
    which it was ranked. probability: with which a selected row was drawn. rank: of methods that rank.
    """

    outcome: Outcome
    example_id: str | None
    source: str | None
    file: str | None
    line: int | None
    reason: str = ""
    detail: str = ""
    prompt: str | None = None
    response: str | None = None
    tokens: int | None = None
    target_tokens: int | None = None
    losses: dict[int, float | None] | None = None
    source_counts: GroupCounts | None = None
    cluster: GroupCounts | None = None
    distance: float | None = None
    score: float | None = None
    probability: float | None = None
    rank: RowRank | None = None


@dataclass(frozen=True)
class _Position:
    """Position of a row in the dataset: its shard, and its row in the shard."""

    shard: int
    row: int


Match = Callable[[pa.Table], pa.ChunkedArray]
Values = dict[str, Any]


def explain(subset: Artifact, row: str) -> list[Explanation]:
    """Explain the rows that `row` means: an example_id, or FILE:LINE, from which several examples may come.

    In a dataset of row numbers, a number means that row.
    Raises `ConfigError` for another kind of artifact, and for a row that the dataset never read.
    """
    if subset.manifest.kind != "subset":
        raise ConfigError(f"{subset.uri}: is a {subset.manifest.kind} artifact, not a subset; `s2l ls ROOT` lists them")
    dataset = subset.input("dataset")
    row = row.zfill(ID_DIGITS) if row.isdigit() else row
    found = [_explain(subset, dataset, position) for position in _positions(dataset, row)]
    found += [_held_out(dataset, position) for position in _positions(dataset, row, HELD_OUT_FOLDER)]
    found += [_rejected(one) for one in _rejected_rows(dataset, row)]
    if not found:
        raise ConfigError(f"{row}: no row of {dataset.uri}; give the example_id or FILE:LINE of a row of its sources")
    return found


def _positions(dataset: Artifact, row: str, folder: str = "") -> list[_Position]:
    """Rows of the pool, or of HELD_OUT_FOLDER, with this example_id or else from this line of a file."""
    tokens, text = folder + TOKENS_FOLDER, folder + TEXT_FOLDER
    found = list(_search(dataset, tokens, ["example_id"], lambda table: pc.equal(table["example_id"], row)))
    wanted = FILE_AND_LINE.fullmatch(row)
    if found or wanted is None:
        return found
    return list(_search(dataset, text, ["file", "line"], lambda table: _from_line(table, wanted)))


def _search(dataset: Artifact, folder: str, columns: list[str], match: Match) -> Iterator[_Position]:
    for shard, record in enumerate(dataset.shards(folder)):
        found_N = match(dataset.read_file(record.path, columns)).to_numpy()
        yield from (_Position(shard, int(row)) for row in np.flatnonzero(found_N))


def _from_line(table: pa.Table, wanted: re.Match[str]) -> pa.ChunkedArray:
    """Which rows come from a line of a file. Either path may be relative to a folder of the other."""
    named = PurePath(wanted["file"])
    files = [file for file in table["file"].unique().to_pylist() if file is not None and _same_file(named, file)]
    of_file = pc.is_in(table["file"], pa.array(files, pa.string()))
    return pc.fill_null(pc.and_(of_file, pc.equal(table["line"], int(wanted["line"]))), False)


def _same_file(named: PurePath, stored: str) -> bool:
    parts, other = named.parts, PurePath(stored).parts
    shorter = min(len(parts), len(other))
    return parts[-shorter:] == other[-shorter:]


def _rejected_rows(dataset: Artifact, row: str) -> Iterator[Values]:
    """Rejected rows with this example_id, or from this line of a file."""
    wanted = FILE_AND_LINE.fullmatch(row)
    for record in dataset.files("rejected/"):
        table = dataset.read_file(record.path)
        found = pc.fill_null(pc.equal(table["example_id"], row), False)
        if wanted is not None:
            found = pc.or_(found, _from_line(table, wanted))
        yield from table.filter(found).to_pylist()


def _held_out(dataset: Artifact, position: _Position) -> Explanation:
    names = [HELD_OUT_FOLDER + folder + shard_path(position.shard) for folder in (TOKENS_FOLDER, TEXT_FOLDER)]
    tokens, text = (dataset.read_file(name).slice(position.row, 1).to_pylist()[0] for name in names)
    texts = {"prompt": text["prompt"], "response": text["response"]}
    return Explanation("held out", tokens["example_id"], tokens["source"], text["file"], text["line"], **texts)


def _rejected(row: Values) -> Explanation:
    return Explanation(
        "rejected", row["example_id"], row["source"], row["file"], row["line"], row["reason"], row["detail"]
    )


def _explain(subset: Artifact, dataset: Artifact, position: _Position) -> Explanation:
    """Everything known about a row of the dataset."""
    inputs = {kind: subset.input(kind) for kind in subset.manifest.inputs}
    stored = _dataset_row(dataset, position)
    scored = _scored_row(inputs["trajectories"], position) if "trajectories" in inputs else {}
    assigned = _row_of(inputs["clusters"], position, ["cluster", "distance"]) if "clusters" in inputs else {}
    selected = subset.read_table(["source", "cluster", "shard", "row", "score", "probability"])
    here = pc.and_(pc.equal(selected["shard"], position.shard), pc.equal(selected["row"], position.row))
    own = selected.filter(here).to_pylist()
    status: str = (scored or stored)["status"]
    if status == OK and assigned and assigned["cluster"] is None:
        status = "no_cluster"
    in_pool = status == OK
    pool = inputs.get("trajectories", dataset)
    return Explanation(
        outcome="selected" if own else "not selected" if in_pool else "not in the pool",
        example_id=stored["example_id"],
        source=stored["source"],
        file=stored.get("file"),
        line=stored.get("line"),
        reason="" if in_pool else status,
        prompt=stored.get("prompt"),
        response=stored.get("response"),
        tokens=stored["tokens"],
        target_tokens=stored["target_tokens"],
        losses=scored.get("losses"),
        source_counts=_counts(pool, selected, "source", stored["source"]) if in_pool else None,
        cluster=_counts(inputs["clusters"], selected, "cluster", assigned["cluster"]) if assigned and in_pool else None,
        distance=assigned.get("distance"),
        score=own[0]["score"] if own else None,
        probability=own[0]["probability"] if own else None,
        rank=_rank(subset, position) if in_pool else None,
    )


def _rank(subset: Artifact, position: _Position) -> RowRank | None:
    """The rank of a row; None for methods that do not rank."""
    job = Compared.of(subset)
    if job.select is None or job.ranking is None:
        return None
    return rank_of_row(job.ranking, job.select, position.shard, position.row)


def _row_of(artifact: Artifact, position: _Position, columns: list[str] | None = None) -> Values:
    """The values of a row of a kind whose shards are one file each."""
    values: Values = artifact.read_file(shard_path(position.shard), columns).slice(position.row, 1).to_pylist()[0]
    return values


def _dataset_row(dataset: Artifact, position: _Position) -> Values:
    """Text and numbers of tokens of a row; those of a dataset of row numbers are None."""
    row = dataset.read_shard(position.shard).slice(position.row, 1)
    values: Values = row.to_pylist()[0]
    tokens, counts = len(values["input_ids"] or []), {}
    if tokens:
        counts = {"tokens": tokens, "target_tokens": int(token_rows(row).target_tokens_N[0])}
    return {**values, "tokens": None, "target_tokens": None, **counts}


def _scored_row(trajectories: Artifact, position: _Position) -> Values:
    """Status and losses by step; None for a loss that is not finite."""
    row = _row_of(trajectories, position, ["status", "losses"])
    steps = trajectories.facts(TrajectoriesFacts).steps
    losses = [one if one is not None and math.isfinite(one) else None for one in row["losses"] or []]
    return {"status": row["status"], "losses": dict(zip(steps, losses, strict=True)) if losses else None}


def _counts(pool: Artifact, selected: pa.Table, column: str, name: str | int) -> GroupCounts:
    """Rows of the pool and of the subset whose value in `column` is `name`."""
    statuses = ["status"] if column == "source" else []
    rows = 0
    for table in pool.read_tables([column, *statuses]):
        own = table.filter(pc.equal(table["status"], OK)) if statuses else table
        rows += pc.sum(pc.equal(own[column], name)).as_py() or 0
    return GroupCounts(str(name), rows, pc.sum(pc.equal(selected[column], name)).as_py() or 0)
