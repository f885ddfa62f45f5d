"""Wait until the cluster has the resources that a stage needs.

Resources are requested as a placement group: every autoscaler of Ray treats a pending one as demand, it is ready once
the resources exist and are free, and it ends with the driver. `request_resources` is unsuitable: a cluster holds one
such request at a time, and Ray Data replaces it.
"""

import time
from collections.abc import Callable

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from s2l_ray.errors import ConfigError, S2LError
from s2l_ray.runtime.contracts import Cluster, ResourceRequest

POLL_SECONDS = 1
REPORT_SECONDS = 60.0
SCARCE_FIRST = ("memory", "GPU", "CPU")


def wait_for_resources(
    cluster: Cluster, request: ResourceRequest, minutes: float, report: Callable[[str], None]
) -> None:
    """Block until the resources are free; report a status line once a minute.

    Raises `ConfigError` at once for resources that the local Ray of this machine does not have, and `S2LError` for
    those that another cluster lacks after `minutes`.
    """
    if cluster.local:
        total = ray.cluster_resources()
        if any(amount * request.workers > total.get(name, 0.0) for name, amount in request.per_worker().items()):
            raise ConfigError(f"{request.name}: needs {_shortage(request)}; {request.hint}")
        return
    group = placement_group([request.per_worker()] * request.workers)
    started, reported = time.monotonic(), -REPORT_SECONDS
    try:
        while not group.wait(POLL_SECONDS):
            seconds = time.monotonic() - started
            if seconds >= minutes * 60:
                raise S2LError(
                    f"{request.name}: waited {minutes:g} minutes for {_shortage(request)}; {request.hint}, add such "
                    "nodes, or raise resources.wait_minutes",
                    page="docs/failures.md#stalls",
                )
            if seconds - reported >= REPORT_SECONDS:
                reported = seconds
                report(f"waiting for {_shortage(request)}; {seconds / 60:.0f} min of {minutes:g}")
    finally:
        remove_placement_group(group)


def _shortage(request: ResourceRequest) -> str:
    """The first resource that exceeds the cluster's total; the whole request where only free resources are short."""
    total = ray.cluster_resources()
    per_worker = request.per_worker()
    for name in SCARCE_FIRST:
        wanted, available = per_worker.get(name, 0.0) * request.workers, total.get(name, 0.0)
        if wanted > available:
            parts = f" ({request.workers} workers of {_amount(name, per_worker[name])})" if request.workers > 1 else ""
            return f"{_amount(name, wanted)}{parts}, but the cluster has {_amount(name, available)}"
    parts = describe_request(request)
    return f"{request.workers} x {parts}: the cluster has as much in total, but not free or not on one node"


def describe_request(request: ResourceRequest) -> str:
    """Resources of one worker, e.g. "1 CPU and 2 GPUs"."""
    return " and ".join(_amount(name, amount) for name, amount in request.per_worker().items())


def _amount(name: str, amount: float) -> str:
    return f"{amount / 1e9:.3g} GB of memory" if name == "memory" else f"{amount:g} {name}{'s' * (amount != 1)}"
