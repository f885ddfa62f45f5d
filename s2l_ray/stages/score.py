"""score: every example's loss at every checkpoint -> trajectories.

In: a dataset and the checkpoints of a proxy. Out: one file a unit (checkpoint, shard), and from them the trajectory
shards, whose rows are those of the dataset's shards, in order. Units are begun checkpoint by checkpoint, so that an
actor seldom changes its weights. A unit that lies in storage, whole and made from the same checkpoint, shard and
options, is not done again.

The driver holds names and counts.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Generator
from dataclasses import replace
from typing import Any

from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import OK, losses_path, step_name, trajectories_schema
from s2l_ray.artifacts.tables import FileRecord, find_complete_unit
from s2l_ray.config.sections import Config
from s2l_ray.errors import S2LError
from s2l_ray.runtime.actor_pool import describe, run_units
from s2l_ray.runtime.contracts import Cluster, Failed, PoolOptions, Progress, ResourceRequest
from s2l_ray.stages.build import (
    Build,
    NamedUnit,
    Product,
    Stage,
    cpus_each,
    in_one_place,
    look_for,
    pool_size,
    retry_options,
)
from s2l_ray.stages.score_join import JoinWorker
from s2l_ray.stages.score_workers import ScoreWorker, numerics_of

KIND = "trajectories"


def execution(config: Config, cluster: Cluster) -> dict[str, Any]:
    """How the losses are computed; what of it can change their last bits stays as it was begun."""
    wanted = config.resources.score
    return {
        "tokens_per_batch": wanted.tokens_per_batch,
        "attention": wanted.attention,
        "threads": wanted.threads,
        "gpus": cluster.gpus_each(wanted.gpus, "resources.score.gpus"),
    }


def needs(build: Build) -> ResourceRequest:
    """Room for the least number of workers; more begin as there is room for them."""
    gpus = build.execution["gpus"]
    least, _ = pool_size(build.config.resources.score.workers, build.cluster, gpus)
    remedy = "lower resources.score.workers" + (" or set resources.score.gpus: 0" if gpus else "")
    return ResourceRequest("score", remedy, least, cpus_each(build.cluster), gpus)


def score(build: Build) -> Stage:
    """Record the losses that are missing, then join them into trajectories."""
    units = plan_units(build)
    done = finished_units(build, units)
    missing = [unit for unit in units if unit["path"] not in done]
    yield Progress(KIND, len(done), len(units), note=f"{len(done)} of {len(units)} units are there")
    scored = yield from _score_missing(build, missing, len(units))
    records = [*done.values(), *scored.files]
    joined = yield from join(build, records)
    numerics = yield from measure_numerics(build, joined.facts["steps"][-1])
    return Product(
        files=[*records, *joined.files],
        counts=joined.counts | {"units": len(units), "units_scored": len(scored.files)},
        facts=joined.facts | scored.facts | {"numerics": numerics},
        schema=trajectories_schema(len(joined.facts["steps"]), statistics_of(build.config)),
    )


def steps_of(build: Build) -> list[int]:
    """The optimiser steps whose checkpoints are scored. Raises `S2LError` where one of the job's was not saved."""
    saved = [int(step) for step in build.inputs["checkpoints"].manifest.facts["steps"]]
    wanted = build.config.score.checkpoints
    if wanted == "all":
        return saved
    if unknown := sorted(set(wanted) - set(saved)):
        raise S2LError(f"score.checkpoints: {unknown} were not saved; there are {saved}")
    return sorted(set(wanted))


def statistics_of(config: Config) -> tuple[str, ...]:
    """The statistics beside the loss, in the order of their columns."""
    return tuple(name for name in config.score.statistics if name != "loss")


def plan_units(build: Build) -> list[NamedUnit]:
    """Every (checkpoint, shard), in the order they are begun, with the facts that make one up."""
    checkpoints, dataset = build.inputs["checkpoints"], build.inputs["dataset"]
    options = {
        "dtype": build.config.score.dtype,
        "statistics": ",".join(statistics_of(build.config)),
        "tokens_per_batch": str(build.execution["tokens_per_batch"]),
        "attention": build.execution["attention"],
    }
    return [
        NamedUnit(
            {
                "step": step,
                "shard": shard,
                "path": losses_path(step, shard),
                "name": losses_path(step, shard),
                "facts": {"checkpoint": digest, "shard": record.sha256, **options},
            }
        )
        for step in steps_of(build)
        for digest in [checkpoint_digest(checkpoints, step)]
        for shard, record in enumerate(dataset.shards())
    ]


def checkpoint_digest(checkpoints: Artifact, step: int) -> str:
    """One sha256 for all files of a checkpoint."""
    listed = "\n".join(f"{record.path} {record.sha256}" for record in checkpoints.files(f"{step_name(step)}/"))
    return hashlib.sha256(listed.encode()).hexdigest()


def finished_units(build: Build, units: list[NamedUnit]) -> dict[str, FileRecord]:
    """The units that lie in storage and are whole, by path."""
    records = look_for(units, lambda unit: find_complete_unit(build.folder, unit["path"], unit["facts"]))
    return {record.path: record for record in records if record is not None}


def _score_missing(build: Build, missing: list[NamedUnit], total: int) -> Generator[Progress, None, Product]:
    config, begun = build.config, time.monotonic()
    gpus = build.execution["gpus"]
    least, most = pool_size(config.resources.score.workers, build.cluster, gpus)
    options = PoolOptions(
        name="scoring",
        memory_hint="lower resources.score.tokens_per_batch",
        min_actors=least,
        max_actors=most,
        cpus=cpus_each(build.cluster),
        gpus=gpus,
        retry=retry_options(build),
        done_before=total - len(missing),
        allow_failures=total if config.score.failures == "allow" else 0,
        failure_hint="run again to retry only the failed units, or skip them with score.failures: allow",
    )
    arguments = {
        "folder": build.folder,
        "dataset": build.inputs["dataset"].uri,
        "checkpoints": build.inputs["checkpoints"].uri,
        "score": config.score.model_dump(),
        "execution": build.execution,
        "cache_bytes": round(config.resources.score.cache_gb * 1e9),
    }
    files: list[FileRecord] = []
    failed: list[str] = []
    paths: Counter[str] = Counter()
    difference, rows, tokens = 0.0, 0, 0
    for outcome in run_units(missing, ScoreWorker, options, arguments):
        if isinstance(outcome, Failed):
            failed.append(describe(outcome))
            yield Progress(KIND, warning=f"failed: {failed[-1]}")
            continue
        result = outcome.value
        files.append(FileRecord(**result["file"]))
        paths[result["attention"]] += 1
        difference = max(difference, result["max_difference"] or 0.0)
        rows, tokens = rows + result["file"]["rows"], tokens + result["tokens"]
        seconds = time.monotonic() - begun
        rates = {"rows": rows / seconds, "tokens": tokens / seconds}
        yield Progress(KIND, total - len(missing) + len(files), total, rates=rates)
    facts: dict[str, Any] = {"failed_units": sorted(failed)} if failed else {}
    if files:
        facts |= {"scoring_paths": dict(paths), "path_difference": difference}
    return Product(files, facts=facts)


def measure_numerics(build: Build, step: int) -> Generator[Progress, None, dict[str, Any]]:
    """The numerics contract. Where it cannot be measured what is scored stays good, and the reason stands there."""
    arguments = (
        build.inputs["dataset"].uri,
        build.inputs["checkpoints"].uri,
        build.config.score.model_dump(),
        build.execution,
        step,
        round(build.config.resources.score.cache_gb * 1e9),
    )
    what, lower = "measuring the numerics", "lower resources.score.tokens_per_batch"
    place = replace(needs(build), workers=1)
    try:
        return (yield from in_one_place(build, numerics_of, *arguments, what=what, lower=lower, place=place))
    except S2LError as error:
        return {"not_measured": next(iter(str(error).splitlines()), type(error).__name__)}


def join(build: Build, records: list[FileRecord]) -> Generator[Progress, None, Product]:
    """Put the units of each shard side by side as trajectories; one that failed, and may, is missing there.

    A checkpoint of which every unit failed has no column, and is named in the facts.
    """
    by_path = {record.path: vars(record) for record in records}
    asked, shards = steps_of(build), build.inputs["dataset"].shards()
    steps = [step for step in asked if any(losses_path(step, shard) in by_path for shard in range(len(shards)))]
    if not steps:
        raise S2LError("score: no unit of any checkpoint could be scored; the warnings above say why")
    units = [
        NamedUnit(
            {
                "name": f"shard {shard}",
                "shard": shard,
                "units": [by_path.get(losses_path(step, shard)) for step in steps],
            }
        )
        for shard in range(len(shards))
    ]
    arguments = {
        "folder": build.folder,
        "dataset": build.inputs["dataset"].uri,
        "statistics": statistics_of(build.config),
    }
    cpus = cpus_each(build.cluster)
    per_task = max(1, len(units) // 16)
    hint = "use nodes with more memory"
    options = PoolOptions("joining", hint, cpus=cpus, retry=retry_options(build), units_per_task=per_task)
    files: list[FileRecord] = []
    statuses: Counter[str] = Counter()
    ok_by_source: Counter[str] = Counter()
    failed_rows: list[str] = []
    for outcome in run_units(units, JoinWorker, options, arguments):
        if isinstance(outcome, Failed):
            continue
        result = outcome.value
        files.append(FileRecord(**result["file"]))
        statuses.update(result["statuses"])
        ok_by_source.update(result["ok_by_source"])
        failed_rows += result["failed_rows"]
        yield Progress(KIND, len(files), len(units), unit="shards joined")
    counts = {"read": sum(statuses.values()), "kept": statuses[OK]}
    aside = {status: count for status, count in sorted(statuses.items()) if status != OK}
    facts = {
        "steps": steps,
        "statistics": statistics_of(build.config),
        "ok_by_source": dict(sorted(ok_by_source.items())),
    }
    if failed := sorted(set(asked) - set(steps)):
        facts["failed_steps"] = failed
    if failed_rows:
        facts["failed_rows"] = sorted(failed_rows)
        yield Progress(KIND, warning=f"{len(failed_rows)} times a row could not be scored: {min(failed_rows)}")
    return Product(files, counts | {"set_aside": aside}, facts)
