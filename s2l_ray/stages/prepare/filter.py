"""Decide which rows form the pool, from their ids, cut them into shards, and collect the rows that do not."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.artifacts.receipts import write_receipt
from s2l_ray.artifacts.schemas import REJECTED
from s2l_ray.artifacts.tables import FileRecord, read_table, write_table
from s2l_ray.core.arrays import Int32, UInt8, UInt64
from s2l_ray.core.data.deduplication import HELD_OUT, KEEP, REASONS, cut_shards, filter_rows, id_to_words
from s2l_ray.runtime.worker_process import track, working
from s2l_ray.sources.ranges import Range
from s2l_ray.stages.prepare.records import FilteredPool, ParsedRange, Piece, PieceSlice, RejectedRows, RejectUnit

DECISIONS = pa.schema([("decision", pa.uint8())])
# rows of a group of pieces, whose rejected rows are collected in one file
GROUP_ROWS = 1 << 18


def group_pieces(ranges: Sequence[Range], parsed: Sequence[ParsedRange]) -> list[list[Piece]]:
    """All pieces in global order, in groups of about GROUP_ROWS rows."""
    groups: list[list[Piece]] = []
    rows = GROUP_ROWS
    for piece in _pieces(ranges, parsed):
        size = piece.examples + (piece.rejected.rows or 0 if piece.rejected else 0)
        if rows + size > GROUP_ROWS:
            groups.append([])
            rows = 0
        groups[-1].append(piece)
        rows += size
    return groups


def _pieces(ranges: Sequence[Range], parsed: Sequence[ParsedRange]) -> list[Piece]:
    """All pieces in global order, each with the lines of its file in earlier ranges."""
    lines_before: Counter[str] = Counter()
    pieces = []
    for one, result in zip(ranges, parsed, strict=True):
        file = f"{one.source}:{one.uri}"
        pieces += [dataclasses.replace(piece, lines_before=lines_before[file]) for piece in result.pieces]
        lines_before[file] += result.lines
    return pieces


@dataclass(frozen=True)
class FilterOptions:
    """sample_by_source: rows to sample of each entry of data.sources. limit: rows, or a share of the pool.

    held_out: rows to hold out of each source.
    """

    drop_duplicates: bool
    sample_by_source: list[int | None]
    limit: int | Fraction | None
    held_out: int
    seed: int


@working()
def filter_pool(folder: str, groups: Sequence[Sequence[Piece]], options: FilterOptions) -> FilteredPool:
    """Decide about every row and write one file of decisions a group. Runs in one actor."""
    pieces = [piece for group in groups for piece in group]
    rows_by_source = Counter[int]()
    for piece in pieces:
        rows_by_source[piece.source] += piece.examples
    decision_N = filter_rows(
        lambda: (_read_ids(folder, piece) for piece in track(pieces, "pieces read")),
        [rows_by_source[source] for source in range(len(options.sample_by_source))],
        drop_duplicates=options.drop_duplicates,
        sample_E=options.sample_by_source,
        limit=options.limit,
        seed=options.seed,
        read_sources=lambda: _read_sources(folder, pieces),
        held_out=options.held_out,
    )
    files, kept, held_out, row = [], [], [], 0
    for number, group in enumerate(groups):
        first = row
        for piece in group:
            decision_P = decision_N[row : row + piece.examples]
            kept.append(int(np.count_nonzero(decision_P == KEEP)))
            held_out.append(int(np.count_nonzero(decision_P == HELD_OUT)))
            row += piece.examples
        decisions = pa.table({"decision": decision_N[first:row]}, schema=DECISIONS)
        files.append(write_table(folder, f"work/decisions-{number:05d}.parquet", decisions))
    return FilteredPool(files, kept, held_out)


def _read_ids(folder: str, piece: Piece) -> UInt64:
    return id_to_words(read_table(folder, piece.ids, ["example_id"])["example_id"].to_pylist())


def _read_sources(folder: str, pieces: Sequence[Piece]) -> Iterator[tuple[list[str], Int32]]:
    for piece in track(pieces, "sources of pieces read"):
        sources = read_table(folder, piece.ids, ["source"])["source"].combine_chunks().dictionary_encode()
        yield sources.dictionary.to_pylist(), sources.indices.to_numpy()


def cut_pieces(groups: list[list[Piece]], pool: FilteredPool, decision: int, shard_size: int) -> list[list[PieceSlice]]:
    """Shards of `shard_size` kept or held-out rows, the last of a source of fewer, as slices of pieces."""
    located = []
    for pieces, decisions in zip(groups, pool.files, strict=True):
        first = 0
        for piece in pieces:
            located.append((piece, decisions, first))
            first += piece.examples
    rows = pool.kept if decision == KEEP else pool.held_out
    cuts = cut_shards(rows, [piece.source for piece, _, _ in located], shard_size)
    return [[PieceSlice(*located[position], start, stop, decision) for position, start, stop in cut] for cut in cuts]


def read_decisions(folder: str, file: FileRecord, first: int, piece: Piece) -> UInt8:
    """The decisions on the examples of a piece, the first of which is row `first` of the file."""
    decision_P: UInt8 = read_table(folder, file)["decision"].slice(first, piece.examples).to_numpy()
    return decision_P


class RejectWorker:
    """Collect the rejected rows of a group of pieces, in order, with lines counted in the file."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __call__(self, unit: RejectUnit) -> RejectedRows:
        tables, first = [REJECTED.empty_table()], 0
        for piece in unit.pieces:
            tables.append(self._rejected(piece, read_decisions(self._folder, unit.decisions, first, piece)))
            first += piece.examples
        rejected = pa.concat_tables(tables)
        file = write_table(self._folder, f"rejected/rows-{unit.number:05d}.parquet", rejected)
        counts = dict(Counter(rejected["reason"].to_pylist()))
        return write_receipt(self._folder, unit.receipt, unit.key, RejectedRows(counts, [file]))

    def _rejected(self, piece: Piece, decision_P: UInt8) -> pa.Table:
        """The rows of a piece that are neither in the pool nor held out, by line."""
        filtered_P = (decision_P != KEEP) & (decision_P != HELD_OUT)
        ids = read_table(self._folder, piece.ids).filter(pa.array(filtered_P))
        columns = {
            "file": pa.repeat(piece.file, len(ids)),
            "reason": pa.array([REASONS[code] for code in decision_P[filtered_P].tolist()], pa.string()),
            "detail": pa.repeat("", len(ids)),
            **{name: ids[name] for name in ids.column_names},
        }
        tables = [pa.table(columns).select(REJECTED.names)]
        if piece.rejected is not None:
            tables.append(read_table(self._folder, piece.rejected))
        rejected = pa.concat_tables(tables).sort_by("line")
        line = pc.add(rejected["line"], piece.lines_before)
        return rejected.set_column(rejected.schema.get_field_index("line"), "line", line)
