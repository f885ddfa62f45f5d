"""Single rows of a report: their texts, and the distinctive terms of groups of rows."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from s2l_ray.artifacts.schemas import TEXT_FOLDER
from s2l_ray.core.arrays import Bool, Float32, Int64
from s2l_ray.core.embedding import text_to_embed
from s2l_ray.reporting.pool import Parts, PoolColumns, take_rows
from s2l_ray.reporting.records.trajectories import Row

CLIP = 400
TERM = re.compile(r"[^\W\d_]{4,}")
TITLE_TERMS = 4
# a term that fewer rows of a group hold is no title of it
LEAST_SHARE = 0.1


@dataclass(frozen=True)
class FlaggedRows:
    """The rows of the pool that have a flag, and the severity of all rows."""

    definition: str
    mask_N: Bool
    severity_N: Float32


Flagged = Mapping[str, FlaggedRows]
"""The rows of each flag, by its name."""


def shown_rows(
    parts: Parts, columns: PoolColumns, values: Mapping[int, float], flagged: Flagged, *, text: bool
) -> dict[int, Row]:
    """Rows of the pool by their index in it. values: the value of each row, by its index."""
    index_M = np.asarray(sorted(values), np.int64)
    dataset, number_M = parts["dataset"], columns.number_N[index_M]
    ids = take_rows(dataset, columns.start_S, number_M, ["example_id"])["example_id"].to_pylist()
    names = ["file", "line", *(["prompt", "response"] if text else [])]
    stored = take_rows(dataset, columns.start_S, number_M, names, TEXT_FOLDER).to_pylist()
    return {
        index: Row(
            example_id=ids[position],
            source=columns.sources[columns.source_N[index]],
            file=stored[position]["file"],
            line=stored[position]["line"],
            cluster=None if columns.cluster_N is None else int(columns.cluster_N[index]),
            selected=bool(columns.selected_N[index]),
            value=values[index],
            flags=tuple(name for name, one in flagged.items() if one.mask_N[index]),
            prompt=clipped(text_to_embed(stored[position].get("prompt") or "", "", "prompt")),
            response=clipped(stored[position].get("response")),
        )
        for position, index in enumerate(index_M.tolist())
    }


def clipped(text: str | None) -> str | None:
    """A text cut at `CLIP` characters; None for an empty one."""
    if not text:
        return None
    return text if len(text) <= CLIP else f"{text[: CLIP - 1]}…"


def titles(
    parts: Parts, columns: PoolColumns, groups: Sequence[Int64], families: Sequence[str | None]
) -> list[tuple[str, ...]]:
    """Distinctive terms of groups of rows, given as indices in the pool, among the groups of one family."""
    index_M = np.unique(np.concatenate([np.empty(0, np.int64), *groups]))
    number_M = columns.number_N[index_M]
    texts = take_rows(parts["dataset"], columns.start_S, number_M, ["prompt", "response"], TEXT_FOLDER)
    terms = [set(TERM.findall(f"{row['prompt']} {row['response']}".lower())) for row in texts.to_pylist()]
    counted = [Counter(term for at in np.searchsorted(index_M, rows) for term in terms[at]) for rows in groups]
    found = []
    for own, rows, family in zip(counted, groups, families, strict=True):
        alone = families.count(family) == 1
        peers = [at for at, other in enumerate(families) if alone or other == family]
        everywhere = sum((counted[at] for at in peers), Counter[str]())
        found.append(_title(own, len(rows), everywhere, sum(len(groups[at]) for at in peers)))
    return found


def _title(own: Mapping[str, int], rows: int, everywhere: Mapping[str, int], total: int) -> tuple[str, ...]:
    """Terms with the largest share in the group, times the logarithm of its ratio to their share in all groups."""

    def score(term: str) -> float:
        return own[term] / rows * math.log(own[term] * total / (rows * everywhere[term]))

    frequent = [term for term, count in own.items() if count >= LEAST_SHARE * rows and score(term) > 0]
    return tuple(sorted(frequent, key=lambda term: (-score(term), term))[:TITLE_TERMS])
