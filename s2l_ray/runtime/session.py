"""The connection to Ray: a cluster that somebody started, or one of our own on this machine.

In: nothing but the environment (`RAY_ADDRESS`, as `ray job submit` sets it). Out: what the cluster has, and Ray's own
messages in a log file instead of on the terminal. A cluster that we did not start is never shut down.
"""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# read by Ray when it is imported or started; there is no other way to set them
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # a saved state is committed at the next poll
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")

import ray

from s2l_ray.errors import ConfigError, S2LError

MINIMUM_LOCAL_CPUS = 4  # logical: the read tasks of a pipeline starve where its actors hold every CPU
HEAD = "node:__internal_head__"
"""The resource by which Ray marks the head."""
_started_here = False


@dataclass(frozen=True)
class Cluster:
    """What there is to run on. `cpus` and `gpus` are Ray's logical ones, `cores` the real ones of this machine.

    `grows`: nodes are started as work asks for them, which the head of such a cluster tells by doing none itself.
    """

    local: bool
    nodes: int
    cpus: float
    gpus: float
    cores: int
    grows: bool = False

    def gpus_each(self, wanted: float | str, key: str) -> float:
        """GPUs of one worker: as asked, or for `auto` one where the cluster has any.

        Raises `ConfigError` where it has none and might start some: nobody said whether to wait for them.
        """
        if wanted != "auto":
            return float(wanted)
        if not self.gpus and self.grows:
            raise ConfigError(
                f"{key}: auto looks for GPUs and finds none, on a cluster that starts nodes as they are asked for; "
                f"write {key}: 1 to wait for them, or {key}: 0 to do without"
            )
        return 1.0 if self.gpus else 0.0


@contextmanager
def connect() -> Iterator[Cluster]:
    """The cluster for as long as the block runs. Raises `S2LError` where a named cluster cannot be reached."""
    global _started_here
    connected_before = ray.is_initialized()
    if not connected_before:
        address = os.environ.get("RAY_ADDRESS")
        _start(address)
        _started_here = not address
    _quiet_libraries()
    try:
        yield describe()
    finally:
        if not connected_before:
            ray.shutdown()  # of a cluster that was running before, only this connection
            _started_here = False


def _start(address: str | None) -> None:
    try:
        if address:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            return
        cpus = max(MINIMUM_LOCAL_CPUS, os.cpu_count() or 1)
        ray.init(
            address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )
    except (OSError, RuntimeError, ValueError) as error:
        remedy = "unset RAY_ADDRESS to run on this machine, or start that cluster" if address else "is the disk full?"
        if "AF_UNIX" in str(error):
            remedy = f"Ray puts sockets below TMPDIR={tempfile.gettempdir()}; set TMPDIR to a short path such as /tmp"
        raise S2LError(f"Ray at {address or 'this machine'} does not answer: {error}; {remedy}") from error


def describe() -> Cluster:
    """The cluster that is connected, as it is now: nodes come and go."""
    resources = ray.cluster_resources()
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    grows = not _started_here and any(HEAD in node and not node.get("CPU") for node in alive)
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    return Cluster(_started_here, len(alive), cpus, gpus, os.cpu_count() or 1, grows)


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
