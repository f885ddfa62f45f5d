"""A sample of the rows of a job, and the size of its pool, counted or extrapolated within a time limit.

Rows are read as `prepare` reads them, and the same decisions are made about duplicates, samples and held-out rows.
"""

import heapq
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

import numpy as np

from s2l_ray import storage
from s2l_ray.config.budget import share_of
from s2l_ray.config.identity import source_spec
from s2l_ray.config.sections import Config, Source
from s2l_ray.core.arrays import Int32, UInt8, UInt64
from s2l_ray.core.data.deduplication import HELD_OUT, KEEP, filter_rows, id_to_words, sampling_key
from s2l_ray.core.data.examples import read_row
from s2l_ray.core.data.turns import RejectedRow, example_id
from s2l_ray.pipeline.estimates.sizes import PROBE, PoolSize
from s2l_ray.sources.ranges import Range, RangeReader, list_ranges
from s2l_ray.sources.rows import RawRow
from s2l_ray.sources.spec import SourceSpec

# candidates that are kept of one source, and of all sources together
MOST_CANDIDATES, ALL_CANDIDATES = 4000, 20_000
CHECK_ROWS = 256


@dataclass
class SourceRows:
    """Rows read of one source. ids, names: of the rows that become examples, and of their sources.

    candidates: those with the smallest sampling keys, as (-key, position, JSON text). share: of the source that was
    read, by bytes or rows; None if that is not known.
    """

    read: int = 0
    filtered: int = 0
    ids: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    candidates: list[tuple[int, int, str]] = field(default_factory=list)
    share: float | None = 1.0


@dataclass(frozen=True)
class PoolSample:
    """JSON texts of sampled rows for each source, in proportion to its rows in the pool, and the size of the pool.

    size: without tokens; unknown where a compressed file was not read to its end.
    """

    rows: tuple[tuple[str, ...], ...]
    size: PoolSize


def sample_pool(config: Config, wanted: int, seconds: float) -> PoolSample:
    """Sample about `wanted` rows of the pool, reading for at most so many seconds."""
    sources, root = config.data.sources, storage.absolute(config.data.root)
    most = max(wanted // 4, min(MOST_CANDIDATES, ALL_CANDIDATES // max(1, len(sources))))
    deadline = time.monotonic() + seconds
    found = [_read_source(one, root, config.data.seed, most, deadline) for one in sources]
    decision_N = _decide(config, found)
    starts = np.cumsum([0, *(len(one.ids) for one in found)])
    parts = [decision_N[start:stop] for start, stop in pairwise(starts)]
    kept = [int(np.count_nonzero(part == KEEP)) for part in parts]
    total = max(1, sum(kept))
    rows = []
    for source, part, own in zip(found, parts, kept, strict=True):
        chosen = [text for _, position, text in sorted(source.candidates, reverse=True) if part[position] == KEEP]
        rows.append(tuple(chosen[: -(-wanted * own // total)]))
    return PoolSample(tuple(rows), _size(config, found, parts))


def _read_source(source: Source, root: str, seed: int, most: int, deadline: float) -> SourceRows:
    """Read a source until the time is over, and at least its first rows."""
    spec, found = source_spec(source), SourceRows()
    ranges = list_ranges([spec], root)
    for number, one in enumerate(ranges):
        characters = 0
        for raw in RangeReader(one):
            found.read += 1
            characters += len(raw.text or "")
            _add(found, source, spec, one, raw, seed, most)
            if found.read % CHECK_ROWS == 0 and time.monotonic() > deadline:
                found.share = _share(ranges, number, characters, raw.line)
                return found
    return found


def _share(ranges: list[Range], number: int, characters: int, line: int) -> float | None:
    """The share of a source that was read: all earlier ranges, and a part of range `number`."""
    one, total = ranges[number], sum(each.stop - each.start for each in ranges)
    if one.compression is not None:
        return None
    read = characters if one.kind == "lines" else line
    done = sum(each.stop - each.start for each in ranges[:number]) + min(read, one.stop - one.start)
    return done / total if total else None


def _add(found: SourceRows, source: Source, spec: SourceSpec, one: Range, raw: RawRow, seed: int, most: int) -> None:
    """Count a row, and keep it as a candidate if its key is among the smallest."""
    if raw.row is None:
        return
    columns = {**one.partitions, **raw.row}
    if not spec.matches(columns):
        found.filtered += 1
        return
    try:
        row = one.without_added_nulls(raw.row)
        identifier = example_id(read_row(row, source.format, source.fields, source.roles).example)
    except RejectedRow:
        return
    name = spec.source_name(columns)
    if name is None:
        return
    found.ids.append(identifier)
    found.names.append(name)
    key = int(sampling_key(id_to_words([identifier]), seed)[0])
    if len(found.candidates) < most or -key > found.candidates[0][0]:
        entry = (-key, len(found.ids) - 1, json.dumps({**one.partitions, **row}, ensure_ascii=False))
        push = heapq.heappush if len(found.candidates) < most else heapq.heappushpop
        push(found.candidates, entry)


def _decide(config: Config, found: list[SourceRows]) -> UInt8:
    """The decision about every row that was read."""
    data = config.data
    limit: int | Fraction | None = share_of(data.limit) if isinstance(data.limit, str) else data.limit

    def read_ids() -> Iterator[UInt64]:
        return (id_to_words(one.ids) for one in found if one.ids)

    def read_sources() -> Iterator[tuple[list[str], Int32]]:
        for one in found:
            if one.ids:
                names, codes = np.unique(one.names, return_inverse=True)
                yield names.tolist(), codes.astype(np.int32)

    return filter_rows(
        read_ids,
        [len(one.ids) for one in found],
        drop_duplicates=data.duplicates == "drop",
        sample_E=[source.rows for source in data.sources],
        limit=limit,
        seed=data.seed,
        read_sources=read_sources,
        held_out=data.held_out.per_source if data.held_out else 0,
    )


def _size(config: Config, found: list[SourceRows], parts: list[UInt8]) -> PoolSize:
    """The size of the pool; of sources that were read in part, rows are taken to continue as they began."""
    given = config.estimate.rows
    if any(one.share is None for one in found):
        return PoolSize(given, given, None, None, origin=PROBE)
    read = filtered = rows = held_out = 0.0
    for source, one, part in zip(config.data.sources, found, parts, strict=True):
        scale = 1 / (one.share or 1.0)
        read, filtered = read + one.read * scale, filtered + one.filtered * scale
        own = int(np.count_nonzero(part == HELD_OUT))
        held_out += own
        kept = (np.count_nonzero(part == KEEP) + own) * scale - own
        rows += min(kept, source.rows - own) if source.rows is not None else kept
    if isinstance(config.data.limit, int):
        rows = min(rows, config.data.limit)
    return PoolSize(read, round(rows), None, held_out, filtered, PROBE)
