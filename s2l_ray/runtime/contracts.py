"""Records exchanged between driver and workers, and between stages and the engine. Imports no engine.

Everything here is a frozen dataclass that Ray pickles. A unit is any record with a `name`; a worker maps one unit to
one result.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from s2l_ray.errors import ConfigError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Usage:
    """Time and memory of one worker process.

    seconds: in the work itself, without starting the process and loading a model. peak_bytes:
    most memory that the process ever held. alone: no other worker runs at the same time.
    """

    process: str
    seconds: float
    peak_bytes: int
    alone: bool = False


@dataclass(frozen=True)
class Progress:
    """Progress of one stage: `done` of `total` units of `unit`; `note` and `warning` are lines to keep.

    counts: processed in `seconds` by this run of the pass, e.g. {"rows": 12000, "tokens": 3100000}. values: current,
    e.g. {"loss": 2.1}. failures: attempts that failed since the previous record. built: the artifact is complete, after
    `seconds`. usage: of the workers; such a record has no position.
    """

    kind: str
    done: float = 0
    total: float = 0
    unit: str = "units"
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    values: dict[str, float] = field(default_factory=dict)
    failures: int = 0
    note: str = ""
    warning: str = ""
    built: bool = False
    usage: tuple[Usage, ...] = ()

    @property
    def rates(self) -> dict[str, float]:
        """Counts per second, by name; empty before any time has passed."""
        return {name: count / self.seconds for name, count in self.counts.items()} if self.seconds else {}


Report = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """The default `Report`."""


@dataclass(frozen=True)
class Cluster:
    """Resources of the connected cluster. `cpus` and `gpus` are Ray's logical ones, `cores` this machine's real ones.

    local: started by this process. grows: an autoscaler adds nodes on demand. accelerator: Ray's name of its GPUs, such
    as H100; empty without any, or with several types.
    """

    local: bool
    nodes: int
    cpus: float
    gpus: float
    cores: int
    grows: bool = False
    accelerator: str = ""

    def gpus_each(self, wanted: float | str, key: str) -> float:
        """GPUs of one worker: as asked, or for `auto` one where the cluster has any.

        Raises `ConfigError` on an autoscaling cluster without GPUs, where `auto` is ambiguous.
        """
        if wanted != "auto":
            return float(wanted)
        if not self.gpus and self.grows:
            raise ConfigError(
                f"{key}: auto finds no GPU on this autoscaling cluster and cannot decide whether to wait for one; "
                f"write {key}: 1 to wait for GPU nodes, or {key}: 0 to run on CPUs",
                page="docs/cluster.md",
            )
        return 1.0 if self.gpus else 0.0


@dataclass(frozen=True)
class ResourceRequest:
    """Workers, and what each takes of one node: CPUs, GPUs, bytes of memory. `hint`: how to request less."""

    name: str = ""
    hint: str = ""
    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 0

    def per_worker(self) -> dict[str, float]:
        """One worker's resources by Ray's names, without zeros."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus, "memory": float(self.memory)}
        return {name: amount for name, amount in wanted.items() if amount}


@dataclass(frozen=True)
class RetryOptions:
    """retries: attempts after a failed one. stall_minutes: without progress. wait_minutes: without resources."""

    retries: int = 0
    stall_minutes: float = 30.0
    wait_minutes: float = 15.0


@dataclass(frozen=True)
class RemoteTask:
    """Work on one node: kind of the artifact, name and memory hint for messages, resources, retries."""

    kind: str
    name: str
    memory_hint: str
    request: ResourceRequest = ResourceRequest()
    retry: RetryOptions = RetryOptions()


@dataclass(frozen=True)
class PoolOptions:
    """A pool of `min_actors` to `max_actors` actors with `cpus` and `gpus` each.

    name: of the work, for messages. memory_hint: what to change if an actor runs out of memory. kind: of the artifact.
    done_before: units completed by earlier runs. allow_failures: failed units that do not end the run. failure_hint:
    what to do about failed units. units_per_task: units that one Ray task carries.
    """

    name: str
    memory_hint: str
    kind: str = ""
    min_actors: int = 1
    max_actors: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    retry: RetryOptions = RetryOptions()
    done_before: int = 0
    allow_failures: int = 0
    failure_hint: str = "run again to retry only the failed units"
    units_per_task: int = 1

    def task(self) -> RemoteTask:
        """The work of one actor."""
        request = ResourceRequest(self.name, self.memory_hint, 1, self.cpus, self.gpus)
        return RemoteTask(self.kind, self.name, self.memory_hint, request, self.retry)


@dataclass(frozen=True)
class Failure:
    """An exception of a worker. kind: its class. details: the traceback. process: where it happened.

    final: a retry would fail too, and so would the other units (damaged input, disk full).
    """

    kind: str
    message: str
    details: str = ""
    process: str = ""
    attempts: int = 1
    final: bool = False
    out_of_memory: bool = False


class Unit(Protocol):
    """A unit of work."""

    @property
    def name(self) -> str:
        """Unique name of the unit, for messages."""


@dataclass(frozen=True)
class Done(Generic[Result]):
    """A unit, by name, and its result."""

    unit: str
    value: Result


@dataclass(frozen=True)
class Failed:
    """A unit that failed in every attempt, by name."""

    unit: str
    failure: Failure

    def __str__(self) -> str:
        one = self.failure
        message, process = one.message.partition("\n")[0], f"last on {one.process}, " if one.process else ""
        return f"{self.unit}: {message} ({process}{one.attempts} attempt{'s' * (one.attempts != 1)})"


class ActorHandle(Protocol):
    """The handle of a Ray actor. Ray's own type cannot be used: its stubs type every method as `Never`."""

    def __getattr__(self, name: str) -> Any: ...
