"""Collection of the values of a report from the complete artifacts of a job."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow.compute as pc

from s2l_ray.artifacts.facts import CheckpointsFacts, DatasetFacts, EvaluationFacts, SubsetFacts, TargetFacts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import TRAINING_TABLE
from s2l_ray.config.sections import Prices
from s2l_ray.core.arrays import Int32
from s2l_ray.pipeline.costs import artifact_cost
from s2l_ray.reporting.methods import methods
from s2l_ray.reporting.pool import Parts, PoolColumns
from s2l_ray.reporting.records.comparisons import Evaluation, Experiment
from s2l_ray.reporting.records.pool import (
    Lengths,
    Proxy,
    RejectedExample,
    Rejection,
    RowAccount,
    SourceCounts,
    StageRecord,
    Summary,
)
from s2l_ray.reporting.records.report import Report
from s2l_ray.reporting.rows import Flagged
from s2l_ray.reporting.trajectories import clusters, maps, suspicions

EXAMPLES_PER_REASON = 10
LENGTH_BINS = 40
CURVE_POINTS = 1000
# a proxy whose held-out loss falls by less than this share of its first value did not learn
LEARNED_SHARE = 0.01


def collect(
    parts: Parts,
    columns: PoolColumns,
    flagged: Flagged,
    run: str,
    *,
    text: bool = True,
    experiment: Experiment | None = None,
) -> Report:
    """The report of complete artifacts. run: the name of the job's run. text: include texts of rows."""
    stages = tuple(_stage(artifact) for artifact in parts.values())
    return Report(
        summary=_summary(parts, run, columns, stages),
        account=_account(parts["dataset"]),
        sources=tuple(_sources(columns)),
        lengths=_lengths(columns),
        proxy=_proxy(parts.get("checkpoints")),
        clusters=clusters(parts, columns, flagged, text=text),
        maps=maps(parts, columns),
        suspicions=suspicions(parts, columns, flagged, text=text),
        methods=methods(parts),
        evaluation=_evaluation(parts),
        experiment=experiment,
        stages=stages,
    )


def _summary(parts: Parts, run: str, columns: PoolColumns, stages: Sequence[StageRecord]) -> Summary:
    dataset, facts = parts["dataset"].manifest, parts["dataset"].facts(DatasetFacts)
    subset = parts["subset"].facts(SubsetFacts) if "subset" in parts else None
    with_tokens = bool(columns.tokens_N.any())
    selected = columns.tokens_N[columns.selected_N]
    seconds = [one.seconds for one in stages if one.seconds is not None]
    return Summary(
        run=run,
        read=dataset.counts.read,
        kept=dataset.counts.kept,
        rejected=sum(dataset.counts.rejected.values()),
        held_out=sum(facts.held_out.values()),
        pool=subset.pool if subset is not None else len(columns),
        selected=parts["subset"].manifest.counts.kept if subset is not None else None,
        pool_tokens=_total(columns.tokens_N) if with_tokens else None,
        selected_tokens=_total(selected) if with_tokens and subset is not None else None,
        method=subset.method if subset is not None else None,
        budget=subset.budget if subset is not None else None,
        unit=subset.unit if subset is not None else None,
        seconds=sum(seconds) if seconds else None,
        money=_money(parts),
    )


def _money(parts: Parts) -> float | None:
    """The price of all stages; None where any is not known."""
    last = list(parts.values())[-1]
    prices = Prices.model_validate(last.manifest.config.get("prices", {}))
    if prices == Prices():
        return None
    costs = [artifact_cost(one, prices).money for one in parts.values()]
    return None if None in costs else float(sum(cost for cost in costs if cost is not None))


def _evaluation(parts: Parts) -> Evaluation | None:
    """The scores of the target; None without an evaluation."""
    if "evaluation" not in parts:
        return None
    facts, target = parts["evaluation"].facts(EvaluationFacts), parts["target"].facts(TargetFacts)
    return Evaluation(
        target.rows,
        facts.macro_loss,
        facts.micro_loss,
        facts.loss_by_source,
        facts.rows_by_source,
        {name: one.score for name, one in facts.tasks.items()},
        {name: one.error for name, one in facts.tasks.items()},
    )


def _account(dataset: Artifact) -> RowAccount:
    counts, facts = dataset.manifest.counts, dataset.facts(DatasetFacts)
    examples = _rejected_examples(dataset)
    rejections = sorted(counts.rejected.items(), key=lambda item: (-item[1], item[0]))
    return RowAccount(
        counts.read,
        counts.kept,
        tuple(Rejection(reason, rows, tuple(examples.get(reason, ()))) for reason, rows in rejections),
        facts.statuses,
        facts.held_out,
        facts.unread_columns,
        facts.contaminated,
        facts.warnings,
    )


def _rejected_examples(dataset: Artifact) -> dict[str, list[RejectedExample]]:
    """The first rejected rows of each reason, in the order of the files."""
    found: dict[str, list[RejectedExample]] = {}
    for record in dataset.files("rejected/"):
        if all(len(found.get(reason, ())) >= EXAMPLES_PER_REASON for reason in dataset.manifest.counts.rejected):
            break
        table = dataset.read_file(record.path)
        for reason in table["reason"].unique().to_pylist():
            examples = found.setdefault(reason, [])
            first = table.filter(pc.equal(table["reason"], reason)).slice(0, EXAMPLES_PER_REASON - len(examples))
            rows = first.select(["file", "line", "source", "detail"]).to_pylist()
            examples += [RejectedExample(**row) for row in rows]
    return found


def _sources(columns: PoolColumns) -> Iterator[SourceCounts]:
    """Counts of each source, the largest first."""
    counts = [
        np.bincount(columns.source_N[mask], weights=weights, minlength=len(columns.sources)).astype(np.int64)
        for mask in (np.ones(len(columns), bool), columns.selected_N)
        for weights in (None, columns.tokens_N[mask])
    ]
    rows, tokens, selected_rows, selected_tokens = (one.tolist() for one in counts)
    for code in sorted(range(len(rows)), key=lambda code: (-rows[code], columns.sources[code])):
        yield SourceCounts(columns.sources[code], rows[code], selected_rows[code], tokens[code], selected_tokens[code])


def _lengths(columns: PoolColumns) -> Lengths | None:
    """The distribution of lengths; None without tokens."""
    if not columns.tokens_N.any():
        return None
    pool, edges = np.histogram(columns.tokens_N, LENGTH_BINS)
    selected, _ = np.histogram(columns.tokens_N[columns.selected_N], edges)
    return Lengths(tuple(edges.tolist()), tuple(pool.tolist()), tuple(selected.tolist()))


def _proxy(checkpoints: Artifact | None) -> Proxy | None:
    """The training of the proxy; None for imported checkpoints and without a proxy."""
    if checkpoints is None or not checkpoints.files(TRAINING_TABLE):
        return None
    training = checkpoints.read_file(TRAINING_TABLE, ["step", "loss", "learning_rate"])
    every = max(1, -(-len(training) // CURVE_POINTS))
    facts = checkpoints.facts(CheckpointsFacts)
    held_out = [(one.step, one.held_out_loss) for one in facts.checkpoints if one.held_out_loss is not None]
    return Proxy(
        tuple(training["step"].to_pylist()[::every]),
        tuple(training["loss"].to_pylist()[::every]),
        tuple(training["learning_rate"].to_pylist()[::every]),
        every,
        tuple(step for step, _ in held_out),
        tuple(loss for _, loss in held_out),
        _learning_warning(facts),
    )


def _learning_warning(facts: CheckpointsFacts) -> str | None:
    """A warning where the loss on held-out rows, or else on training rows, did not fall."""
    pairs = (
        ("held-out", facts.held_out_loss_first, facts.held_out_loss_last),
        ("training", facts.training_loss_first, facts.training_loss_last),
    )
    for name, first, last in pairs:
        if first is not None and last is not None:
            if last < (1 - LEARNED_SHARE) * first:
                return None
            return (
                f"The proxy did not learn: its {name} loss went from {first:.3f} to {last:.3f}. Its trajectories carry "
                "little information, and a selection by them is close to a random one. Raise proxy.learning_rate or "
                "proxy.epochs."
            )
    return None


def _stage(artifact: Artifact) -> StageRecord:
    manifest = artifact.manifest
    return StageRecord(
        manifest.kind,
        manifest.fingerprint,
        artifact.uri,
        manifest.counts.kept,
        manifest.timings.get("seconds"),
        dict(_seeds(manifest.identity)),
        manifest.execution.libraries,
        manifest.provenance,
    )


def _seeds(identity: dict[str, object], prefix: str = "") -> Iterator[tuple[str, int]]:
    """Values of the keys named `seed`, by their dotted path."""
    for key, value in identity.items():
        if isinstance(value, dict):
            yield from _seeds(value, f"{prefix}{key}.")
        elif key == "seed" and isinstance(value, int):
            yield f"{prefix}{key}", value


def _total(tokens: Int32) -> int:
    return int(tokens.sum(dtype=np.int64))
