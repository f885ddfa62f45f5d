"""The last part of `evaluate`: its units -> the tables of the artifact and their summary. One task a run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.artifacts.facts import Counts, EvaluationFacts, TaskScore
from s2l_ray.artifacts.schemas import ANSWERS, ANSWERS_FOLDER, HELD_OUT_LOSSES, LOSSES_TABLE, NO_TARGET_TOKENS
from s2l_ray.artifacts.tables import FileRecord, read_table, write_row_groups, write_table
from s2l_ray.core.evaluation.metrics import METRICS, MetricOptions
from s2l_ray.core.evaluation.statistics import mean_of


@dataclass(frozen=True)
class ScoredTask:
    """A task to summarize: the files of its units, and the metrics that can be computed, the score first."""

    units: Sequence[FileRecord]
    metrics: tuple[str, ...]
    options: MetricOptions


@dataclass(frozen=True)
class Summary:
    """The tables, with their counts and figures. too_long: prompts that were not asked, by task."""

    files: list[FileRecord]
    counts: Counts
    facts: EvaluationFacts
    too_long: dict[str, int]


def summarize(
    folder: str, loss_units: Sequence[FileRecord] | None, tasks: Mapping[str, ScoredTask], engine: str | None
) -> Summary:
    """Join the units into tables; average losses by source, over sources and over rows; score the tasks.

    loss_units: None for an evaluation on tasks alone.
    """
    files: list[FileRecord] = []
    counts, facts = Counts(), EvaluationFacts({}, {}, None, None, engine=engine)
    if loss_units is not None:
        file, counts, facts = _join_losses(folder, loss_units, facts)
        files.append(file)
    scores, too_long = {}, {}
    for name, task in tasks.items():
        file, scores[name], too_long[name] = _score_task(folder, name, task)
        files.append(file)
    return Summary(files, counts, replace(facts, tasks=scores), {name: rows for name, rows in too_long.items() if rows})


def _join_losses(
    folder: str, units: Sequence[FileRecord], facts: EvaluationFacts
) -> tuple[FileRecord, Counts, EvaluationFacts]:
    sums: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    read = 0
    with write_row_groups(folder, LOSSES_TABLE, HELD_OUT_LOSSES) as joined:
        for record in units:
            table = read_table(folder, record)
            joined.write(table)
            read += len(table)
            for source, loss in zip(table["source"].to_pylist(), table["loss"].to_pylist(), strict=True):
                if loss is not None:
                    sums[source] += loss
                    rows[source] += 1
    by_source = {source: sums[source] / rows[source] for source in sorted(rows)}
    kept = rows.total()
    known = replace(
        facts,
        loss_by_source=by_source,
        rows_by_source={source: rows[source] for source in by_source},
        macro_loss=float(np.mean(list(by_source.values()))) if by_source else None,
        micro_loss=sum(sums.values()) / kept if kept else None,
    )
    return joined.record, Counts(read, kept, {NO_TARGET_TOKENS: read - kept} if read > kept else {}), known


def _score_task(folder: str, name: str, task: ScoredTask) -> tuple[FileRecord, TaskScore, int]:
    """The task's table of answers with its verdicts, its score, and the prompts that were too long."""
    table = pa.concat_tables(read_table(folder, record) for record in task.units)
    answers = [text or "" for text in table["extracted"].to_pylist()]
    references = table["reference"].to_pylist()
    scores_by_metric = {metric: METRICS[metric].rows(answers, references, task.options) for metric in task.metrics}
    values = {metric: METRICS[metric].score(answers, references, own) for metric, own in scores_by_metric.items()}
    first, *others = task.metrics
    verdict_R = scores_by_metric[first]
    table = table.set_column(ANSWERS.get_field_index("verdict"), ANSWERS.field("verdict"), pa.array(verdict_R))
    # the samples of a question are not independent: their mean is one value
    samples = int(pc.max(table["sample"]).as_py()) + 1
    of_questions = mean_of(verdict_R.reshape(-1, samples).mean(axis=1))
    score = TaskScore(
        questions=of_questions.number,
        score=values[first],
        error=None if METRICS[first].corpus else of_questions.error,
        no_answer=table["extracted"].null_count / len(table),
        output_tokens=float(pc.mean(table["output_tokens"]).as_py()),
        metrics={metric: values[metric] for metric in others},
    )
    file = write_table(folder, f"{ANSWERS_FOLDER}{name}.parquet", table)
    return file, score, table["output"].null_count
