"""The contract of stages: `Build`, `Product`, and the two functions that run work on the cluster.

A stage is a plain function `stage(build: Build) -> Product`. Ray is imported when work starts, so that planning, which
imports the stages, does not need it.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import pyarrow as pa

from s2l_ray.artifacts.execution import Settings
from s2l_ray.artifacts.facts import Counts, Facts
from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.schemas import shard_path
from s2l_ray.artifacts.tables import FileRecord
from s2l_ray.config.sections import Config
from s2l_ray.runtime.contracts import (
    Cluster,
    Done,
    Failed,
    PoolOptions,
    Progress,
    RemoteTask,
    Report,
    ResourceRequest,
    RetryOptions,
    Unit,
)

# storage reads at a time, and those that are queued: a queued one takes more than a kilobyte
LOOKUP_THREADS, LOOKUPS_QUEUED = 16, 1024
MAX_ACTORS = 1024
TASKS_PER_ACTOR = 16
# memory that any node has; requests below it would only fail on autoscalers that do not know their nodes' memory
SMALL_BYTES = 4 << 30

E = TypeVar("E", bound=Settings)
U = TypeVar("U", bound=Unit)
R = TypeVar("R")
T = TypeVar("T")
K = TypeVar("K", str, int)


@dataclass(frozen=True)
class ShardUnit:
    """A unit that writes one file for one shard. key: what the unit's file is made from."""

    shard: int
    key: dict[str, str]

    @property
    def name(self) -> str:
        """Path of the unit's file."""
        return shard_path(self.shard)


@dataclass(frozen=True)
class Build(Generic[E]):
    """An artifact being built in `folder`: the job, its complete inputs by kind, the recorded execution settings.

    version: of the step that builds it.
    """

    kind: str
    folder: str
    config: Config
    inputs: Mapping[str, Artifact]
    execution: E
    cluster: Cluster
    report: Report
    version: int = 1

    def progress(
        self, done: float, total: float, unit: str, counts: Mapping[str, int] = {}, seconds: float = 0.0
    ) -> None:
        self.report(Progress(self.kind, done, total, unit, dict(counts), seconds))

    def note(self, text: str) -> None:
        self.report(Progress(self.kind, note=text))

    def warn(self, text: str) -> None:
        self.report(Progress(self.kind, warning=text))

    def retry_options(self) -> RetryOptions:
        resources = self.config.resources
        return RetryOptions(resources.retries, resources.stall_minutes, resources.wait_minutes)

    def run_units(
        self, units: Sequence[U], worker: Callable[..., Callable[[U], R]], options: PoolOptions, **arguments: object
    ) -> Iterator[Done[R] | Failed]:
        """Results of units from a pool of actors, as they come. `arguments` go to the worker's constructor.

        Kind, CPUs and retries in the options are set here.
        """
        from s2l_ray.runtime.actor_pool import run_units

        retry, cpus = self.retry_options(), cpus_per_actor(self.cluster)
        return run_units(
            units, worker, replace(options, kind=self.kind, cpus=cpus, retry=retry), arguments, self.report
        )

    def run_missing_units(
        self,
        units: Sequence[U],
        find: Callable[[U], R | None],
        worker: Callable[..., Callable[[U], R]],
        options: PoolOptions,
        progress_unit: str,
        rows_of: Callable[[R], int | None] = lambda result: None,
        **arguments: object,
    ) -> list[R]:
        """Results in order of the units: those that `find` returns, and the others from `run_units`.

        rows_of: rows of a unit, by its result, from which the progress has a rate.
        """
        found = find_complete(units, find)
        results = {unit.name: result for unit, result in zip(units, found, strict=True) if result is not None}
        missing = [unit for unit in units if unit.name not in results]
        units_per_task = max(1, len(missing) // (TASKS_PER_ACTOR * options.max_actors))
        options = replace(options, done_before=len(results), units_per_task=units_per_task)
        rows, started = 0, time.monotonic()
        for outcome in self.run_units(missing, worker, options, **arguments):
            if isinstance(outcome, Done):
                results[outcome.unit] = outcome.value
                rows += rows_of(outcome.value) or 0
                counts = {"rows": rows} if rows else {}
                self.progress(len(results), len(units), progress_unit, counts, time.monotonic() - started)
        return [results[unit.name] for unit in units]

    def run_on_one_node(
        self, name: str, memory_hint: str, request: ResourceRequest, function: Callable[..., T], *arguments: object
    ) -> T:
        """Result of a function that runs on one node of the cluster."""
        from s2l_ray.runtime.remote_task import run_on_one_node

        task = RemoteTask(self.kind, name, memory_hint, request, self.retry_options())
        return run_on_one_node(task, function, *arguments, report=self.report)


@dataclass(frozen=True)
class Product:
    """A built artifact, without its manifest."""

    files: list[FileRecord]
    counts: Counts
    facts: Facts
    schema: pa.Schema | None = None


def target_rows(inputs: Mapping[str, Artifact]) -> Artifact:
    """The rows in the tokens of the target: of `target.tokenizer`, or those of the pool."""
    return inputs["target_dataset" if "target_dataset" in inputs else "dataset"]


def pool_size(workers: int | list[int] | str, cluster: Cluster, gpus: float) -> tuple[int, int]:
    """Minimum and maximum number of actors; `auto` is one per GPU, or per CPU where no GPU is used.

    On an autoscaling cluster `auto` is as many as it will start.
    """
    if isinstance(workers, list):
        return workers[0], workers[1]
    if workers == "auto":
        free = cluster.gpus / gpus if gpus else cluster.cores if cluster.local else cluster.cpus - 1
        return 1, MAX_ACTORS if cluster.grows else max(1, int(free))
    return int(workers), int(workers)


def find_complete(units: Sequence[U], find: Callable[[U], T | None]) -> list[T | None]:
    """`find` of every unit, concurrently: one or two storage reads each."""
    starts = range(0, len(units), LOOKUPS_QUEUED)
    with ThreadPoolExecutor(LOOKUP_THREADS) as threads:
        return [one for start in starts for one in threads.map(find, units[start : start + LOOKUPS_QUEUED])]


def total_counts(counts: Iterable[Mapping[K, int]]) -> dict[K, int]:
    """Sums by key, without zeros, in order of the keys."""
    return dict(sorted(sum(map(Counter, counts), Counter[K]()).items()))


def cpus_per_actor(cluster: Cluster) -> float:
    """Ray's CPUs for one actor: 0.5 on this machine, where the read tasks of a pipeline need some too."""
    return 0.5 if cluster.local else 1.0


def memory_request(cluster: Cluster, estimate: float) -> int:
    """Bytes to request for an estimate; 0 requests none, on this machine or where any node has enough."""
    return 0 if cluster.local or estimate <= SMALL_BYTES else int(estimate)
