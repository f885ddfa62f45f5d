"""Room on the cluster for what is about to start, waited for while nodes come up.

In: what is needed, and for how long to wait. Out: lines to show meanwhile, or an error that names the resource that is
missing and the key to change. Room is asked for as a placement group: a pending one is a demand that every autoscaler
of Ray's meets, it is ready once the resources are there and free, and it ends with the driver. `request_resources` is
no way to ask: a cluster holds one such request at a time, and Ray Data replaces it as it goes.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from s2l_ray.errors import ConfigError, S2LError
from s2l_ray.runtime.session import Cluster

POLL_SECONDS = 1
NOTE_SECONDS = 60.0
SCARCE_FIRST = ("memory", "GPU", "CPU")


@dataclass(frozen=True)
class Need:
    """Workers, and what each takes of a node: CPUs, GPUs, bytes of memory. `remedy`: what to change for less."""

    what: str
    remedy: str
    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 0

    def each(self) -> dict[str, float]:
        """One worker's share, by Ray's names."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus, "memory": float(self.memory)}
        return {name: amount for name, amount in wanted.items() if amount}


def wait_for_room(cluster: Cluster, need: Need, minutes: float) -> Iterator[str]:
    """Return once there is room; what is waited for, every now and then, until then.

    Raises `ConfigError` at once for what our own Ray on this machine does not have, and `S2LError` for what another
    cluster still has no room for after so many minutes.
    """
    if cluster.local:
        _refuse_beyond(need)
        return
    group = placement_group([need.each()] * need.workers)
    begun, noted = time.monotonic(), -NOTE_SECONDS
    try:
        while not group.wait(POLL_SECONDS):
            seconds = time.monotonic() - begun
            if seconds >= minutes * 60:
                raise S2LError(
                    f"{need.what}: waited {minutes:g} minutes for {_lack(need)}; {need.remedy}, start such nodes, or "
                    "wait longer for them with resources.wait_minutes"
                )
            if seconds - noted >= NOTE_SECONDS:
                noted = seconds
                yield f"waiting for {_lack(need)}; {seconds / 60:.0f} min of {minutes:g}"
    finally:
        remove_placement_group(group)


def _refuse_beyond(need: Need) -> None:
    there = ray.cluster_resources()
    if any(amount * need.workers > there.get(name, 0.0) for name, amount in need.each().items()):
        raise ConfigError(f"{need.what}: {_lack(need)}; {need.remedy}")


def _lack(need: Need) -> str:
    """The first resource of which the cluster has less than is needed; all of it, where each is there but not free."""
    there = ray.cluster_resources()
    each = need.each()
    for name in SCARCE_FIRST:
        wanted, had = each.get(name, 0.0) * need.workers, there.get(name, 0.0)
        if wanted > had:
            of = f" ({need.workers} workers of {_amount(name, each[name])})" if need.workers > 1 else ""
            return f"{_amount(name, wanted)}{of}, but the cluster has {_amount(name, had)}"
    parts = " and ".join(_amount(name, amount) for name, amount in each.items())
    return f"room for {need.workers} x {parts}: the cluster has as much, but not free or not on one node"


def _amount(name: str, amount: float) -> str:
    return f"{amount / 1e9:.3g} GB of memory" if name == "memory" else f"{amount:g} {name}{'s' * (amount != 1)}"
