"""The last part of `evaluate`: its units -> the tables of the artifact and their summary. One task a run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from s2l_ray.artifacts.facts import Counts, EvaluationFacts
from s2l_ray.artifacts.schemas import HELD_OUT_LOSSES, LOSSES_TABLE, NO_TARGET_TOKENS
from s2l_ray.artifacts.tables import FileRecord, read_table, write_row_groups


@dataclass(frozen=True)
class Summary:
    """The tables, with their counts and figures."""

    files: list[FileRecord]
    counts: Counts
    facts: EvaluationFacts


def summarize(folder: str, loss_units: Sequence[FileRecord]) -> Summary:
    """Join the units into one table, and average the losses by source, over sources and over rows."""
    sums: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    read = 0
    with write_row_groups(folder, LOSSES_TABLE, HELD_OUT_LOSSES) as joined:
        for record in loss_units:
            table = read_table(folder, record)
            joined.write(table)
            read += len(table)
            for source, loss in zip(table["source"].to_pylist(), table["loss"].to_pylist(), strict=True):
                if loss is not None:
                    sums[source] += loss
                    rows[source] += 1
    by_source = {source: sums[source] / rows[source] for source in sorted(rows)}
    kept = rows.total()
    facts = EvaluationFacts(
        loss_by_source=by_source,
        rows_by_source={source: rows[source] for source in by_source},
        macro_loss=float(np.mean(list(by_source.values()))) if by_source else None,
        micro_loss=sum(sums.values()) / kept if kept else None,
    )
    return Summary([joined.record], Counts(read, kept, {NO_TARGET_TOKENS: read - kept} if read > kept else {}), facts)
