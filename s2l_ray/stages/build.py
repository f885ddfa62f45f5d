"""What a stage is given, and what it gives back.

In, for every stage: the place of the artefact it builds, the job, its finished inputs and the execution record.
Out: files in that place while it yields `Progress`, and at the end a `Product`, which becomes the manifest.
"""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa

from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.artifacts.tables import FileRecord
from s2l_ray.config.sections import Config
from s2l_ray.runtime.contracts import Cluster, Progress, RemoteTask, ResourceRequest, RetryOptions
from s2l_ray.runtime.remote_task import run_on_one_node

LOOKS_AT_ONCE = 16
Unit = TypeVar("Unit")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Build:
    """An artefact in the making: `folder` is its place, `inputs` its finished inputs by kind."""

    kind: str
    folder: str
    config: Config
    inputs: dict[str, Artifact]
    execution: dict[str, Any]
    cluster: Cluster


@dataclass(frozen=True)
class Product:
    """A built artefact, but for its manifest.

    `counts`: rows in, kept, set aside by reason. `facts`: what later stages and readers need to know.
    """

    files: list[FileRecord]
    counts: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    schema: pa.Schema | None = None


Stage = Generator[Progress, None, Product]
MOST = 1024
SMALL_BYTES = 4 << 30
"""What any node has; more is asked for, though an autoscaler may not know what memory its nodes will have."""


def pool_size(workers: int | list[int] | str, cluster: Cluster, gpus: float) -> tuple[int, int]:
    """The least and the most actors of a pool; `auto` is one for every GPU, or for every CPU where none is used.

    Where nodes are started as they are asked for, that is as many as the cluster will start.
    """
    if isinstance(workers, list):
        return workers[0], workers[1]
    if workers == "auto":
        free = cluster.gpus / gpus if gpus else cluster.cores if cluster.local else cluster.cpus - 1
        return 1, MOST if cluster.grows else max(1, int(free))
    return int(workers), int(workers)


class NamedUnit(dict[str, Any]):
    """A unit as a dictionary with a `name`."""

    @property
    def name(self) -> str:
        """Unique name of the unit."""
        return str(self["name"])


def retry_options(build: Build) -> RetryOptions:
    """Retries and time limits of the job."""
    resources = build.config.resources
    return RetryOptions(resources.retries, resources.stall_minutes, resources.wait_minutes)


def in_one_place(
    build: Build, function: Callable[..., Found], *arguments: Any, what: str, lower: str, place: ResourceRequest
) -> Generator[Progress, None, Found]:
    """The function's result, computed on one node of the cluster; meanwhile how far it tells that it is.

    `what` and `lower` stand in messages: what the function does, and the key that makes it need less memory.
    """
    task = RemoteTask(build.kind, what, lower, place, retry_options(build))
    reported: list[Progress] = []
    value = run_on_one_node(task, function, *arguments, report=reported.append)
    yield from reported
    return value


def look_for(units: Sequence[Unit], look: Callable[[Unit], Found | None]) -> list[Found | None]:
    """What `look` finds of each unit in storage, which takes a read or two of each; many at once."""
    with ThreadPoolExecutor(LOOKS_AT_ONCE) as threads:
        return list(threads.map(look, units))


def cpus_each(cluster: Cluster) -> float:
    """Ray's CPUs for one actor: half of one on this machine, where a pipeline's read tasks must find some too."""
    return 0.5 if cluster.local else 1.0


def memory_asked(cluster: Cluster, estimate: float) -> int:
    """Bytes to ask of a node for what an estimate says; 0 asks for none: where every node will do, or is this one."""
    return 0 if cluster.local or estimate <= SMALL_BYTES else int(estimate)
