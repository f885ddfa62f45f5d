"""score: every example's loss at every checkpoint -> trajectories.

In: a dataset and the checkpoints of a proxy. Out: one file a unit (checkpoint, shard), and from them the trajectory
shards, whose rows are those of the dataset's shards, in order. Units are begun checkpoint by checkpoint, so that an
actor seldom changes its weights. A unit that lies in storage, whole and made from the same checkpoint, shard and
options, is not done again.

The driver holds names and counts. Torch and transformers are imported by the workers alone.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.artifacts.errors import S2LError
from s2l_ray.artifacts.manifest import Artifact, open_artifact
from s2l_ray.artifacts.node_cache import LIMIT_BYTES
from s2l_ray.artifacts.schemas import (
    NO_TARGET_TOKENS,
    NON_FINITE,
    OK,
    losses_path,
    losses_schema,
    shard_path,
    step_name,
    token_arrays,
    trajectories_schema,
)
from s2l_ray.artifacts.tables import FileRecord, finished_unit, read_table, write_table
from s2l_ray.config import Config
from s2l_ray.progress import Progress
from s2l_ray.runtime.session import Cluster
from s2l_ray.runtime.units import Pool, Result, Unit, run_units
from s2l_ray.stages.build import Build, Product, Stage, cpus_each, pool_size

KIND = "trajectories"
LISTING_THREADS = 16


def execution(config: Config, cluster: Cluster) -> dict[str, Any]:
    """How the losses are computed; what of it can change their last bits stays as it was begun."""
    wanted = config.resources.score
    return {
        "tokens_per_batch": wanted.tokens_per_batch,
        "path": wanted.path,
        "threads": wanted.threads,
        "gpus": cluster.gpus_each(wanted.gpus),
    }


def score(build: Build) -> Stage:
    """Record the losses that are missing, then join them into trajectories."""
    units = plan_units(build)
    done = finished_units(build, units)
    missing = [unit for unit in units if unit["path"] not in done]
    yield Progress(KIND, len(done), len(units), note=f"{len(done)} of {len(units)} units are there")
    scored = yield from _score_missing(build, missing, len(units))
    records = [*done.values(), *scored.files]
    joined = yield from join(build, records)
    return Product(
        files=[*records, *joined.files],
        counts=joined.counts | {"units": len(units), "units_scored": len(missing)},
        facts=joined.facts | scored.facts,
        schema=trajectories_schema(len(steps_of(build)), statistics_of(build.config)),
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


def plan_units(build: Build) -> list[Unit]:
    """Every (checkpoint, shard), in the order they are begun, with the facts that make one up."""
    checkpoints, dataset = build.inputs["checkpoints"], build.inputs["dataset"]
    options = {
        "dtype": build.config.score.dtype,
        "statistics": ",".join(statistics_of(build.config)),
        "tokens_per_batch": str(build.execution["tokens_per_batch"]),
        "path": build.execution["path"],
    }
    return [
        {
            "step": step,
            "shard": shard,
            "path": losses_path(step, shard),
            "facts": {"checkpoint": digest, "shard": record.sha256, **options},
        }
        for step in steps_of(build)
        for digest in [checkpoint_digest(checkpoints, step)]
        for shard, record in enumerate(dataset.shards())
    ]


def checkpoint_digest(checkpoints: Artifact, step: int) -> str:
    """One sha256 for all files of a checkpoint."""
    listed = "\n".join(f"{record.path} {record.sha256}" for record in checkpoints.files(f"{step_name(step)}/"))
    return hashlib.sha256(listed.encode()).hexdigest()


def finished_units(build: Build, units: list[Unit]) -> dict[str, FileRecord]:
    """The units that lie in storage and are whole, by path."""
    with ThreadPoolExecutor(LISTING_THREADS) as threads:
        records = threads.map(lambda unit: finished_unit(build.folder, unit["path"], unit["facts"]), units)
        return {record.path: record for record in records if record is not None}


def _score_missing(build: Build, missing: list[Unit], total: int) -> Generator[Progress, None, Product]:
    config, begun = build.config, time.monotonic()
    gpus = build.execution["gpus"]
    least, most = pool_size(config.resources.score.workers, build.cluster, gpus)
    pool = Pool(
        name="scoring",
        lower="resources.score.tokens_per_batch",
        least=least,
        most=most,
        cpus=cpus_each(build.cluster),
        gpus=gpus,
        arguments={
            "folder": build.folder,
            "dataset": build.inputs["dataset"].uri,
            "checkpoints": build.inputs["checkpoints"].uri,
            "score": config.score.model_dump(),
            "execution": build.execution,
            "cache_bytes": round(config.resources.score.cache_gb * 1e9),
        },
    )
    files: list[FileRecord] = []
    paths: Counter[str] = Counter()
    difference, rows, tokens = 0.0, 0, 0
    for result in run_units(missing, ScoreWorker, pool):
        files.append(FileRecord(**result["file"]))
        paths[result["path"]] += 1
        difference = max(difference, result["max_difference"] or 0.0)
        rows, tokens = rows + result["file"]["rows"], tokens + result["tokens"]
        seconds = time.monotonic() - begun
        rates = {"rows": rows / seconds, "tokens": tokens / seconds}
        yield Progress(KIND, total - len(missing) + len(files), total, rates=rates)
    facts = {"scoring_paths": dict(paths), "path_difference": difference} if files else {}
    return Product(files, facts=facts)


def join(build: Build, records: list[FileRecord]) -> Generator[Progress, None, Product]:
    """Put the units of each shard side by side as trajectories."""
    by_path = {record.path: record for record in records}
    steps, shards = steps_of(build), build.inputs["dataset"].shards()
    units: list[Unit] = [
        {"shard": shard, "units": [vars(by_path[losses_path(step, shard)]) for step in steps]}
        for shard in range(len(shards))
    ]
    arguments = {
        "folder": build.folder,
        "dataset": build.inputs["dataset"].uri,
        "statistics": statistics_of(build.config),
    }
    pool = Pool("joining", "data.shard_size", cpus=cpus_each(build.cluster), arguments=arguments)
    files: list[FileRecord] = []
    statuses: Counter[str] = Counter()
    ok_by_source: Counter[str] = Counter()
    for result in run_units(units, JoinWorker, pool, bundle=max(1, len(units) // 16)):
        files.append(FileRecord(**result["file"]))
        statuses.update(result["statuses"])
        ok_by_source.update(result["ok_by_source"])
        yield Progress(KIND, len(files), len(units), unit="shards joined")
    counts = {"read": sum(statuses.values()), "kept": statuses[OK]}
    aside = {status: count for status, count in sorted(statuses.items()) if status != OK}
    facts = {
        "steps": steps,
        "statistics": statistics_of(build.config),
        "ok_by_source": dict(sorted(ok_by_source.items())),
    }
    return Product(files, counts | {"set_aside": aside}, facts)


class ScoreWorker:
    """One model in memory, whose weights are swapped from checkpoint to checkpoint."""

    def __init__(
        self,
        folder: str,
        dataset: str,
        checkpoints: str,
        score: dict[str, Any],
        execution: dict[str, Any],
        cache_bytes: int = LIMIT_BYTES,
    ) -> None:
        import torch

        from s2l_ray.core.losses import ScoreOptions

        torch.set_num_threads(execution["threads"])
        self._folder = folder
        self._dataset = open_artifact(dataset)
        self._checkpoints = open_artifact(checkpoints)
        self._cache_bytes = cache_bytes
        self._non_finite = score["non_finite"]
        self._device = "cuda" if execution["gpus"] and torch.cuda.is_available() else "cpu"
        self._options = ScoreOptions(execution["tokens_per_batch"], score["dtype"], tuple(score["statistics"]))
        self._model: Any = None
        self._step: int | None = None
        self._choice = self._choose_path(execution["path"])

    def __call__(self, unit: Unit) -> Result:
        from s2l_ray.core.losses import score_rows

        self._load(unit["step"])
        ids, rows = self._read(unit["shard"])
        scored = score_rows(self._model, rows, options=self._options)
        self._check_finite(unit, ids, scored)
        names = statistics_of_options(self._options.statistics)
        columns = [ids, pa.array(scored["nll_sum"], from_pandas=True), scored["target_tokens"]]
        columns += [pa.array(scored[name].astype(np.float32), from_pandas=True) for name in names]
        table = pa.Table.from_arrays([pa.array(column) for column in columns], schema=losses_schema(names))
        record = write_table(self._folder, unit["path"], table, unit["facts"])
        return {
            "file": vars(record),
            "tokens": len(rows.ids_X),
            "path": self._choice.path,
            "max_difference": None if np.isnan(self._choice.max_difference) else float(self._choice.max_difference),
        }

    def _choose_path(self, wanted: str) -> Any:
        """The same trial for every worker: the first checkpoint on the first shard."""
        import dataclasses

        from s2l_ray.core.losses import PathChoice, choose_path

        if wanted == "plain":
            choice = PathChoice("plain", 0.0, float("nan"), "asked for")
        else:
            self._load(min(int(step) for step in self._checkpoints.manifest.facts["steps"]))
            choice = choose_path(self._model, self._read(0)[1], self._options)
        self._options = dataclasses.replace(self._options, path=choice.path)
        return choice

    def _load(self, step: int) -> None:
        import torch

        from s2l_ray.core.causal_lm import load_model, swap_weights

        if step == self._step:
            return
        with self._checkpoints.hold(f"{step_name(step)}/", self._cache_bytes) as held:
            folder = held / step_name(step)
            if self._model is None:
                self._model = load_model(folder, dtype=getattr(torch, self._options.dtype), device=self._device)
            else:
                swap_weights(self._model, folder)
        self._step = step

    def _read(self, shard: int) -> tuple[pa.ChunkedArray, Any]:
        from s2l_ray.core.token_rows import TokenRows

        columns = ["example_id", "input_ids", "target_spans"]
        table = self._dataset.read_held(shard_path(shard), columns, self._cache_bytes)
        return table["example_id"].combine_chunks(), TokenRows(*token_arrays(table))

    def _check_finite(self, unit: Unit, ids: pa.Array, scored: dict[str, Any]) -> None:
        """A row with targets and no finite loss ends the run, or is kept as missing."""
        bad_N = ~np.isfinite(scored["nll_sum"]) & (scored["target_tokens"] > 0)
        if bad_N.any() and self._non_finite == "fail":
            some = ", ".join(ids.filter(pa.array(bad_N)).to_pylist()[:5])
            raise S2LError(
                f"score: {int(bad_N.sum())} rows of shard {unit['shard']} have no finite loss at step {unit['step']} "
                f"(examples {some}); the proxy may have diverged: lower proxy.learning_rate, score in float32, or keep "
                "such rows as missing with score.non_finite: null"
            )
        scored["nll_sum"] = np.where(np.isfinite(scored["nll_sum"]), scored["nll_sum"], np.nan)


def statistics_of_options(statistics: tuple[str, ...]) -> tuple[str, ...]:
    """The statistics beside the loss."""
    return tuple(name for name in statistics if name != "loss")


class JoinWorker:
    """The units of one shard, side by side: one trajectory a row."""

    def __init__(self, folder: str, dataset: str, statistics: tuple[str, ...]) -> None:
        self._folder = folder
        self._dataset = open_artifact(dataset)
        self._statistics = tuple(statistics)

    def __call__(self, unit: Unit) -> Result:
        rows = self._dataset.read_file(shard_path(unit["shard"]), ["example_id", "source", "status"])
        columns = [read_table(self._folder, FileRecord(**record)) for record in unit["units"]]
        for column, record in zip(columns, unit["units"], strict=True):
            if column["example_id"] != rows["example_id"]:
                raise S2LError(f"{self._folder}/{record['path']}: holds other rows than shard {unit['shard']}")
        tokens_N = columns[0]["target_tokens"].to_numpy()
        nll_NT = np.stack([column["nll_sum"].to_numpy() for column in columns], axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            loss_NT = (nll_NT / tokens_N[:, None]).astype(np.float32)
        missing_N = tokens_N == 0
        status_N = np.where(missing_N, NO_TARGET_TOKENS, np.where(np.isfinite(loss_NT).all(axis=1), OK, NON_FINITE))
        series = [_series(loss_NT, missing_N)]
        for name in self._statistics:
            series.append(_series(np.stack([column[name].to_numpy() for column in columns], axis=1), missing_N))
        table = pa.Table.from_arrays(
            [rows["example_id"], rows["source"], pa.array(tokens_N), pa.array(status_N), *series],
            schema=trajectories_schema(len(columns), self._statistics),
        )
        record = write_table(self._folder, shard_path(unit["shard"]), table)
        ok_sources = rows["source"].filter(pa.array(status_N == OK)).to_pylist()
        return {
            "file": vars(record),
            "statuses": dict(Counter(status_N.tolist())),
            "ok_by_source": dict(Counter(ok_sources)),
        }


def _series(value_NT: Any, missing_N: Any) -> pa.FixedSizeListArray:
    """One list a row: null where the row has no targets, a null entry where a checkpoint gave no number."""
    values = pa.array(value_NT.astype(np.float32).reshape(-1), from_pandas=True)
    return pa.FixedSizeListArray.from_arrays(values, value_NT.shape[1], mask=pa.array(missing_N))
