"""Clusters of several Ray nodes on this machine, each in a process of its own, and what becomes of work on them.

Run as `python -m tests.support.several_nodes CASE ARGUMENT`; the last line printed is JSON. A process of its own,
because one process belongs to one cluster, and that of the tests has its own Ray.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import ray
from pyarrow.fs import FileSelector
from ray.cluster_utils import Cluster

from s2l_ray import storage
from s2l_ray.errors import S2LError
from s2l_ray.runtime.actor_pool import run_units
from s2l_ray.runtime.placement import Need, wait_for_room
from s2l_ray.runtime.remote_task import Task, run_remote
from s2l_ray.runtime.session import connect
from s2l_ray.runtime.unit_actor import Pool
from tests.support.s3 import free_ports

STORE_BYTES = 100_000_000
HEAD_TYPE = "ray.head.default"  # the name that Ray's fake provider gives the head


@contextlib.contextmanager
def standing(cpus: list[int]) -> Iterator[list[Any]]:
    """A head that does no work and nodes of so many CPUs; `RAY_ADDRESS` leads there."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=one, object_store_memory=STORE_BYTES) for one in cpus]
        os.environ["RAY_ADDRESS"] = cluster.address
        yield nodes
    finally:
        cluster.shutdown()


@contextlib.contextmanager
def growing(most: int) -> Iterator[None]:
    """A head that does no work, and an autoscaler that starts at most so many nodes of one CPU, and ends idle ones.

    Not by `ray.cluster_utils.AutoscalingCluster`, whose start ends every other Ray on the machine (`ray stop --force`)
    and reads a file that is not in Ray's wheel.
    """
    folder = Path(tempfile.mkdtemp(prefix="s2l"))  # short: Ray puts sockets into it, whose names have a limit
    port, agent, client = free_ports(3)
    (folder / "autoscaler.json").write_text(json.dumps(_autoscaler(f"127.0.0.1:{port}", most)))
    words = (
        f"start --head --block --node-ip-address=127.0.0.1 --port={port} --include-dashboard=false --num-cpus=0 "
        f"--dashboard-agent-listen-port={agent} --ray-client-server-port={client} --min-worker-port=0 "
        f"--max-worker-port=0 --object-store-memory={STORE_BYTES} --temp-dir={folder} "
        f"--autoscaling-config={folder}/autoscaler.json"
    )
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    log = folder / "start.log"
    with log.open("wb") as stream:
        command = [str(Path(sys.executable).with_name("ray")), *words.split()]
        head = subprocess.Popen(command, cwd=folder, stdout=stream, stderr=stream, start_new_session=True)
    try:
        until(lambda: "Ray runtime started" in log.read_text() or head.poll() is not None)
        if head.poll() is not None:
            raise RuntimeError(log.read_text()[-3000:])
        os.environ["RAY_ADDRESS"] = f"127.0.0.1:{port}"
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _autoscaler(address: str, most: int) -> dict[str, Any]:
    provider = {"type": "fake_multinode", "gcs_address": address, "use_node_id_as_ip": True}
    provider |= {"disable_node_updaters": True, "disable_launch_config_check": True}
    resources = {"CPU": 1, "object_store_memory": STORE_BYTES}
    types = {
        HEAD_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": most},
    }
    empty: dict[str, Any] = {name: {} for name in ("auth", "docker", "file_mounts")}
    lists = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
    lists += ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files")
    lists += ("rsync_exclude", "rsync_filter")
    rest = {"file_mounts_sync_continuously": False, "upscaling_speed": 10, "idle_timeout_minutes": 0.2}
    return {
        **{"cluster_name": "growing", "max_workers": most, "provider": provider},
        **{"available_node_types": types, "head_node_type": HEAD_TYPE},
        **empty, **{name: [] for name in lists}, **rest,
    }  # fmt: skip


def until(true: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} seconds")
        time.sleep(0.05)


def cpus() -> float:
    return float(ray.cluster_resources().get("CPU", 0.0))


class Sleeper:
    """A worker that says on which node it is."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self, unit: dict[str, Any]) -> dict[str, Any]:
        time.sleep(self._seconds)
        return {"node": ray.get_runtime_context().get_node_id()}


def sleepers(least: int, most: int, seconds: float) -> Pool:
    return Pool("sleeping", "sleep", least=least, most=most, cpus=1.0, arguments={"seconds": seconds})


def grow(argument: str) -> dict[str, Any]:
    """Units on a cluster that has no node yet and may have two."""
    with growing(most=2), connect() as cold:
        begun = time.monotonic()
        notes = list(wait_for_room(cold, Need("score", "lower resources.score.workers"), 2))
        trace, nodes = [[time.monotonic() - begun, cpus()]], set()
        for one in run_units([{"name": str(at)} for at in range(40)], Sleeper, sleepers(1, 4, 1.0)):
            nodes.add(one["node"])
            if trace[-1][1] != cpus():
                trace.append([time.monotonic() - begun, cpus()])
        trace.append([time.monotonic() - begun, cpus()])
        until(lambda: not cpus(), 90)
        trace.append([time.monotonic() - begun, 0.0])
        return {"cold": cold.cpus, "grows": cold.grows, "notes": notes, "trace": trace, "nodes": len(nodes)}


def note_and_sleep(notes: str, seconds: float) -> str:
    """One call, told of by a file with its node's id; only the first call sleeps."""
    node = ray.get_runtime_context().get_node_id()
    first = not list(Path(notes).iterdir())
    (Path(notes) / f"{time.monotonic_ns()}-{node}").touch()
    if first:
        time.sleep(seconds)
    return str(node)


def rooms(argument: str) -> dict[str, Any]:
    """Three nodes: what is asked of them, and a function whose node is lost."""
    with standing([1, 1]) as nodes, connect() as here, tempfile.TemporaryDirectory() as notes:
        begun = time.monotonic()
        try:
            list(wait_for_room(here, Need("train", "lower resources.train.workers", 8, 1.0, 1.0), 0.05))
        except S2LError as error:
            refused = str(error)
        seconds = time.monotonic() - begun
        spread = {
            one["node"] for one in run_units([{"name": str(at)} for at in range(20)], Sleeper, sleepers(2, 2, 0.1))
        }
        until(lambda: ray.available_resources().get("CPU") == cpus(), 30)

        def lose() -> None:
            until(lambda: list(Path(notes).iterdir()))
            (place,) = Path(notes).iterdir()
            kill_raylet(next(one for one in nodes if one.node_id == place.name.partition("-")[2]))

        threading.Thread(target=lose).start()
        value = end_of(run_remote(note_and_sleep, notes, 60.0, task=Task("sleeping", "sleep")))
        calls = [path.name.partition("-")[2] for path in sorted(Path(notes).iterdir())]
        return {"refused": refused, "seconds": seconds, "nodes": len(spread), "calls": calls, "value": value}


def end_of(work: Generator[Any, None, Any]) -> Any:
    """What a generator returns."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def kill_raylet(node: Any) -> None:
    node.all_processes["raylet"][0].process.send_signal(signal.SIGKILL)


def lost(argument: str) -> dict[str, Any]:
    """A job, of which a node is lost once some units are scored; `argument`: {"job": FILE, "root": URI, "units": N}."""
    wanted = json.loads(argument)
    command = [sys.executable, "-m", "s2l_ray", "run", wanted["job"], "--set", f"root={wanted['root']}"]
    with standing([2, 2]) as nodes, tempfile.TemporaryFile("w+") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=log)
        until(lambda: driver.poll() is not None or len(units_of(wanted["root"])) >= wanted["units"], 240)
        before = units_of(wanted["root"])
        kill_raylet(nodes[1])
        killed = time.time()
        status = driver.wait(240)
        again = [path for path, at in units_of(wanted["root"]).items() if path in before and at > before[path]]
        log.seek(0)
        said = {"status": status, "at_kill": len(before), "again": len(again), "seconds": time.time() - killed}
        return {**said, "units": len(units_of(wanted["root"])), "log": log.read()}


def units_of(root: str) -> dict[str, float]:
    """When each unit of scoring was put, to the second, as storage tells."""
    filesystem, path = storage.filesystem(storage.join(root, "trajectories"))
    found = filesystem.get_file_info(FileSelector(path, allow_not_found=True, recursive=True))
    return {one.path: one.mtime.timestamp() for one in found if "/losses/" in one.path and one.is_file}


def cold(argument: str) -> dict[str, Any]:
    """A job on a cluster that starts from nothing; `argument`: {"job": FILE, "root": URI}."""
    wanted = json.loads(argument)
    with growing(most=2):
        command = [sys.executable, "-m", "s2l_ray", "run", wanted["job"], "--set", f"root={wanted['root']}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        with connect():
            until(lambda: not cpus(), 90)
        return {"status": done.returncode, "log": done.stdout + done.stderr}


CASES: dict[str, Callable[[str], dict[str, Any]]] = {"grow": grow, "rooms": rooms, "lost": lost, "cold": cold}

if __name__ == "__main__":
    print(json.dumps(CASES[sys.argv[1]](sys.argv[2] if len(sys.argv) > 2 else "")))
