"""score: dataset and checkpoints -> trajectories (the loss of every example at every checkpoint).

A unit is (checkpoint, shard) and writes one file; then the files of each shard are joined, row by row, into one shard
of trajectories. Units are ordered by checkpoint, so that actors seldom load other weights. A unit whose file is
complete and was made from the same checkpoint, shard and options is not computed again; where other trajectories
below the root hold it, it is copied.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from s2l_ray import storage
from s2l_ray.artifacts.execution import ScoreExecution
from s2l_ray.artifacts.facts import CheckpointsFacts, Counts, SkippedUnit, TrajectoriesFacts
from s2l_ray.artifacts.schemas import OK, losses_path, trajectories_schema
from s2l_ray.artifacts.tables import FileRecord
from s2l_ray.artifacts.trajectories import TrajectoryShard
from s2l_ray.catalog.scored_units import find_stored_units, reused_units, unit_keys, unit_options
from s2l_ray.config.sections import Config
from s2l_ray.errors import S2LError
from s2l_ray.runtime.contracts import Cluster, Failed, PoolOptions, Progress, ResourceRequest
from s2l_ray.stages.build import Build, Product, cpus_per_actor, find_complete, pool_size, total_counts
from s2l_ray.stages.score_check import ScoringCheck, check_scoring
from s2l_ray.stages.score_inputs import check_tokenizers, find_or_copy_unit
from s2l_ray.stages.score_join import JoinUnit, JoinWorker
from s2l_ray.stages.score_workers import ScoredUnit, ScoreUnit, ScoreWorker, other_statistics

MEMORY_HINT = "lower resources.score.tokens_per_batch"

ScoreBuild = Build[ScoreExecution]


def execution(config: Config, cluster: Cluster) -> ScoreExecution:
    """Resolve what can change the last bits of a loss; the number of workers cannot."""
    wanted = config.resources.score
    gpus = cluster.gpus_each(wanted.gpus, "resources.score.gpus")
    return ScoreExecution(wanted.tokens_per_batch, wanted.attention, wanted.threads, gpus)


def resources(build: ScoreBuild) -> ResourceRequest:
    """The minimum number of workers; more start as resources become free."""
    gpus = build.execution.gpus
    least, _ = pool_size(build.config.resources.score.workers, build.cluster, gpus)
    hint = "lower resources.score.workers" + (" or set resources.score.gpus: 0" if gpus else "")
    return ResourceRequest("score", hint, least, cpus_per_actor(build.cluster), gpus)


def score(build: ScoreBuild) -> Product:
    """Score the missing units, then join all of them into trajectories."""
    check_tokenizers(build.inputs["dataset"], build.inputs["checkpoints"])
    check = _check(build)
    units = plan_units(build, check.attention)
    scored_before = find_stored_units(build.config.root, build.version)
    listed = {entry.path for entry in storage.list_files(build.folder)}
    stored = find_complete(units, lambda unit: find_or_copy_unit(build.folder, unit, listed, scored_before))
    complete = {record.path: record for record in stored if record is not None}
    reused = reused_units((unit.key for unit in units if unit.name in complete), scored_before)
    missing = [unit for unit in units if unit.name not in complete]
    copied = f", {sum(reused.values())} of them copied from other trajectories" if reused else ""
    note = f"{len(complete)} of {len(units)} units complete{copied}"
    build.report(Progress(build.kind, len(complete), len(units), note=note))
    scored, skipped = _score_missing(build, check.attention, missing, len(units))
    records = [*complete.values(), *(unit.file for unit in scored)]
    return join_units(build, records, check, skipped, reused)


def join_units(
    build: ScoreBuild,
    records: list[FileRecord],
    check: ScoringCheck,
    skipped: Sequence[SkippedUnit] = (),
    reused: Mapping[str, int] = {},
) -> Product:
    """Trajectories from the files of units. reused: units that were copied, by the trajectories they come from."""
    steps = steps_with_losses(build, records)
    shards = _join(build, steps, records)
    statuses = total_counts(shard.statuses for shard in shards)
    facts = TrajectoriesFacts(
        steps=steps,
        statistics=list(other_statistics(build.config.score)),
        ok_by_source=total_counts(shard.ok_by_source for shard in shards),
        attention=total_counts(shard.attention for shard in shards),
        numerics=check.numerics,
        skipped=tuple(sorted(skipped, key=lambda unit: unit.path)),
        skipped_steps=sorted(set(steps_to_score(build)) - set(steps)),
        reused=dict(reused),
    )
    files = [*records, *(shard.file for shard in shards)]
    read, kept = sum(statuses.values()), statuses.pop(OK, 0)
    counts = Counts(read, kept, statuses)
    return Product(files, counts, facts, trajectories_schema(len(steps), tuple(facts.statistics)))


def _check(build: ScoreBuild) -> ScoringCheck:
    """Check the first and the last checkpoint on one node."""
    steps = steps_to_score(build)
    request, ends = replace(resources(build), workers=1), tuple(sorted({steps[0], steps[-1]}))
    arguments = _worker_arguments(build).values()
    return build.run_on_one_node("checking the model", MEMORY_HINT, request, check_scoring, ends, *arguments)


def steps_to_score(build: ScoreBuild) -> list[int]:
    return build.config.score.steps(build.inputs["checkpoints"].facts(CheckpointsFacts).steps)


def plan_units(build: ScoreBuild, attention: str) -> list[ScoreUnit]:
    """Every (checkpoint, shard) in order of the checkpoints."""
    options = unit_options(build.config.score, build.execution.tokens_per_batch, attention)
    keys = unit_keys(build.inputs["dataset"], build.inputs["checkpoints"], steps_to_score(build), options)
    return [ScoreUnit(step, shard, key) for (step, shard), key in keys.items()]


def steps_with_losses(build: ScoreBuild, records: list[FileRecord]) -> list[int]:
    """The steps with at least one scored unit. Raises `S2LError` where there is none."""
    paths, shards = {record.path for record in records}, range(len(build.inputs["dataset"].shards()))
    steps = [step for step in steps_to_score(build) if any(losses_path(step, shard) in paths for shard in shards)]
    if not steps:
        raise S2LError("score: every unit failed; see the warnings above")
    return steps


def _score_missing(
    build: ScoreBuild, attention: str, missing: list[ScoreUnit], total: int
) -> tuple[list[ScoredUnit], list[SkippedUnit]]:
    wanted, started = build.config.resources.score, time.monotonic()
    least, most = pool_size(wanted.workers, build.cluster, build.execution.gpus)
    done_before = total - len(missing)
    options = PoolOptions(
        name="scoring",
        memory_hint=MEMORY_HINT,
        min_actors=least,
        max_actors=most,
        gpus=build.execution.gpus,
        done_before=done_before,
        allow_failures=wanted.allow_failures,
        failure_hint="run again to retry only these, or set resources.score.allow_failures to skip them",
    )
    arguments = {"folder": build.folder, "attention": attention, **_worker_arguments(build)}
    scored: list[ScoredUnit] = []
    skipped: list[SkippedUnit] = []
    rows = tokens = 0
    for outcome in build.run_units(missing, ScoreWorker, options, **arguments):
        if isinstance(outcome, Failed):
            failure = outcome.failure
            skipped.append(SkippedUnit(outcome.unit, failure.message.partition("\n")[0]))
            build.warn(f"skipped {outcome.unit} after {failure.attempts} attempts: {skipped[-1].error}")
            continue
        scored.append(outcome.value)
        rows += outcome.value.file.rows or 0
        tokens += outcome.value.tokens
        counts, seconds = {"rows": rows, "tokens": tokens}, time.monotonic() - started
        build.report(Progress(build.kind, done_before + len(scored), total, counts=counts, seconds=seconds))
    return scored, skipped


def _worker_arguments(build: ScoreBuild) -> dict[str, object]:
    return {
        "dataset": build.inputs["dataset"].uri,
        "checkpoints": build.inputs["checkpoints"].uri,
        "score": build.config.score,
        "execution": build.execution,
        "cache_bytes": round(build.config.resources.score.cache_gb * 1e9),
    }


def _join(build: ScoreBuild, steps: list[int], records: list[FileRecord]) -> list[TrajectoryShard]:
    """Join the units of each shard; a skipped unit leaves its column empty there."""
    by_path = {record.path: record for record in records}
    shards = range(len(build.inputs["dataset"].shards()))
    units = [JoinUnit(shard, [by_path.get(losses_path(step, shard)) for step in steps]) for shard in shards]
    return build.run_missing_units(
        units,
        lambda unit: None,
        JoinWorker,
        PoolOptions("joining", "use nodes with more memory"),
        "shards joined",
        folder=build.folder,
        dataset=build.inputs["dataset"].uri,
        statistics=other_statistics(build.config.score),
    )
