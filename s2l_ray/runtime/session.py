"""The connection to Ray: the cluster at `RAY_ADDRESS`, or a local Ray that lives as long as the connection.

`ray job submit` sets `RAY_ADDRESS`. A cluster that was started elsewhere is never shut down. Ray's own messages go to
its log files instead of the terminal.
"""

import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

# Ray reads these when it is imported or started; it has no other setting for them.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # a saved state is committed at the next health check
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")

import ray

from s2l_ray.errors import S2LError
from s2l_ray.runtime.contracts import Cluster

# Logical CPUs: the read tasks of a Ray Data pipeline starve where its actors hold every CPU.
MINIMUM_LOCAL_CPUS = 4
# The resource by which Ray marks the head node.
HEAD = "node:__internal_head__"
# The prefix of the resource by which Ray names a node's type of accelerator.
TYPE = "accelerator_type:"
_started_here = False


@contextmanager
def connect() -> Iterator[Cluster]:
    """Connect to Ray for the duration of the block. Raises `S2LError` if it cannot be reached or started."""
    global _started_here
    connected_before = ray.is_initialized()
    if not connected_before:
        address = os.environ.get("RAY_ADDRESS")
        _start(address)
        _started_here = not address
    _quiet_libraries()
    try:
        yield describe_cluster()
    finally:
        if not connected_before:
            ray.shutdown()  # disconnects only, where the cluster was started elsewhere
            _started_here = False


def _start(address: str | None) -> None:
    try:
        ray.init(
            address=address or "local",
            num_cpus=None if address else max(MINIMUM_LOCAL_CPUS, os.cpu_count() or 1),
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, RuntimeError, ValueError) as error:
        hint = "unset RAY_ADDRESS to run on this machine, or start that cluster" if address else "check the disk space"
        if "AF_UNIX" in str(error):
            hint = f"Ray creates sockets below TMPDIR={tempfile.gettempdir()}; set TMPDIR to a short path such as /tmp"
        problem = f"no Ray cluster answers at {address}" if address else "could not start Ray on this machine"
        raise S2LError(f"{problem}: {error}; {hint}") from error


def describe_cluster() -> Cluster:
    """Current resources of the connected cluster.

    A cluster whose head has no CPUs is assumed to be autoscaling.
    """
    resources = ray.cluster_resources()
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    grows = not _started_here and any(HEAD in node and not node.get("CPU") for node in alive)
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    return Cluster(_started_here, len(alive), cpus, gpus, os.cpu_count() or 1, grows, accelerator_of(alive))


def accelerator_of(nodes: Iterable[Mapping[str, float]]) -> str:
    """Ray's name of the accelerators of all nodes, from their resources; empty without any, or with several types."""
    types = {name.removeprefix(TYPE) for resources in nodes for name in resources if name.startswith(TYPE)}
    return types.pop() if len(types) == 1 else ""


def _quiet_libraries() -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray.train", "ray.tune", "ray"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.ERROR)
        for handler in list(logger.handlers):
            if isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr):
                logger.removeHandler(handler)
