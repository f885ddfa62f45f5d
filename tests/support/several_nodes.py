"""Scenarios on Ray clusters of several nodes on this machine.

Run as `python -m tests.support.several_nodes SCENARIO ARGUMENT`; the last line printed is a JSON object. A process can
connect to one cluster only, and that of the tests has its own Ray.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from s2l_ray import storage
from s2l_ray.errors import S2LError
from s2l_ray.runtime.actor_pool import run_units
from s2l_ray.runtime.contracts import Done, PoolOptions, RemoteTask, ResourceRequest
from s2l_ray.runtime.placement import wait_for_resources
from s2l_ray.runtime.remote_task import run_on_one_node
from s2l_ray.runtime.session import connect
from tests.support.s3 import free_ports

STORE_BYTES = 100_000_000
HEAD_TYPE = "ray.head.default"  # the name that Ray's fake provider gives the head


@contextlib.contextmanager
def fixed_cluster(cpus: list[int]) -> Iterator[list[Any]]:
    """Start a head without CPUs and one node for each number of CPUs, and set `RAY_ADDRESS`."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=one, object_store_memory=STORE_BYTES) for one in cpus]
        os.environ["RAY_ADDRESS"] = cluster.address
        yield nodes
    finally:
        cluster.shutdown()


@contextlib.contextmanager
def autoscaling_cluster(max_nodes: int) -> Iterator[None]:
    """Start a head without CPUs and an autoscaler of up to `max_nodes` nodes of one CPU, and set `RAY_ADDRESS`.

    `ray.cluster_utils.AutoscalingCluster` is unsuitable: it stops every other Ray on the machine (`ray stop --force`)
    and reads a file that Ray's wheel lacks.
    """
    folder = Path(tempfile.mkdtemp(prefix="s2l"))  # short: the paths of Ray's sockets have a length limit
    port, agent, client = free_ports(3)
    (folder / "autoscaler.json").write_text(json.dumps(_autoscaler_config(f"127.0.0.1:{port}", max_nodes)))
    arguments = (
        f"start --head --block --node-ip-address=127.0.0.1 --port={port} --include-dashboard=false --num-cpus=0 "
        f"--dashboard-agent-listen-port={agent} --ray-client-server-port={client} --min-worker-port=0 "
        f"--max-worker-port=0 --object-store-memory={STORE_BYTES} --temp-dir={folder} "
        f"--autoscaling-config={folder}/autoscaler.json"
    )
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    log = folder / "start.log"
    with log.open("wb") as stream:
        command = [str(Path(sys.executable).with_name("ray")), *arguments.split()]
        head = subprocess.Popen(command, cwd=folder, stdout=stream, stderr=stream, start_new_session=True)
    try:
        wait_until(lambda: "Ray runtime started" in log.read_text() or head.poll() is not None)
        if head.poll() is not None:
            raise RuntimeError(log.read_text()[-3000:])
        os.environ["RAY_ADDRESS"] = f"127.0.0.1:{port}"
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _autoscaler_config(address: str, max_nodes: int) -> dict[str, Any]:
    provider = {"type": "fake_multinode", "gcs_address": address, "use_node_id_as_ip": True}
    provider |= {"disable_node_updaters": True, "disable_launch_config_check": True}
    resources = {"CPU": 1, "object_store_memory": STORE_BYTES}
    types = {
        HEAD_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": max_nodes},
    }
    empty: dict[str, Any] = {name: {} for name in ("auth", "docker", "file_mounts")}
    lists = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
    lists += ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files")
    lists += ("rsync_exclude", "rsync_filter")
    rest = {"file_mounts_sync_continuously": False, "upscaling_speed": 10, "idle_timeout_minutes": 0.2}
    return {
        **{"cluster_name": "autoscaling", "max_workers": max_nodes, "provider": provider},
        **{"available_node_types": types, "head_node_type": HEAD_TYPE},
        **empty, **{name: [] for name in lists}, **rest,
    }  # fmt: skip


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} seconds")
        time.sleep(0.05)


def cpus() -> float:
    return float(ray.cluster_resources().get("CPU", 0.0))


@dataclass(frozen=True)
class Nap:
    """A unit."""

    name: str


class Sleeper:
    """A worker whose result is the id of its node."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self, unit: Nap) -> str:
        time.sleep(self._seconds)
        return str(ray.get_runtime_context().get_node_id())


def nodes_of_naps(count: int, min_actors: int, max_actors: int, seconds: float) -> Iterator[str]:
    """Run `count` naps on a pool; yield the node of each as it completes."""
    options = PoolOptions("sleeping", "sleep less", min_actors=min_actors, max_actors=max_actors)
    for result in run_units([Nap(str(at)) for at in range(count)], Sleeper, options, {"seconds": seconds}):
        assert isinstance(result, Done)
        yield result.value


def grow(argument: str) -> dict[str, Any]:
    """Run units on an autoscaling cluster without nodes, of up to two."""
    with autoscaling_cluster(max_nodes=2), connect() as cold:
        started = time.monotonic()
        lines: list[str] = []
        wait_for_resources(cold, ResourceRequest("score", "lower resources.score.workers"), 2, lines.append)
        trace, nodes = [[time.monotonic() - started, cpus()]], set()
        for node in nodes_of_naps(40, 1, 4, 1.0):
            nodes.add(node)
            if trace[-1][1] != cpus():
                trace.append([time.monotonic() - started, cpus()])
        trace.append([time.monotonic() - started, cpus()])
        wait_until(lambda: not cpus(), 90)
        trace.append([time.monotonic() - started, 0.0])
        return {"cold": cold.cpus, "grows": cold.grows, "lines": lines, "trace": trace, "nodes": len(nodes)}


def record_call_and_sleep(notes: str, seconds: float) -> str:
    """Leave a file with the node's id; only the first call sleeps."""
    node = ray.get_runtime_context().get_node_id()
    first = not list(Path(notes).iterdir())
    (Path(notes) / f"{time.monotonic_ns()}-{node}").touch()
    if first:
        time.sleep(seconds)
    return str(node)


def placement(argument: str) -> dict[str, Any]:
    """Request more than the cluster has, spread units over nodes, and lose the node of a function."""
    with fixed_cluster([1, 1]) as nodes, connect() as here, tempfile.TemporaryDirectory() as notes:
        started = time.monotonic()
        try:
            request = ResourceRequest("train", "lower resources.train.workers", 8, 1.0, 1.0)
            wait_for_resources(here, request, 0.05, print)
        except S2LError as error:
            refused = str(error)
        seconds = time.monotonic() - started
        spread = set(nodes_of_naps(20, 2, 2, 0.1))
        wait_until(lambda: ray.available_resources().get("CPU") == cpus(), 30)

        def lose() -> None:
            wait_until(lambda: list(Path(notes).iterdir()))
            (note,) = Path(notes).iterdir()
            kill_raylet(next(one for one in nodes if one.node_id == note.name.partition("-")[2]))

        threading.Thread(target=lose).start()
        value = run_on_one_node(RemoteTask("clusters", "sleeping", "sleep less"), record_call_and_sleep, notes, 60.0)
        calls = [path.name.partition("-")[2] for path in sorted(Path(notes).iterdir())]
        return {"refused": refused, "seconds": seconds, "nodes": len(spread), "calls": calls, "value": value}


def kill_raylet(node: Any) -> None:
    node.all_processes["raylet"][0].process.send_signal(signal.SIGKILL)


def lost(argument: str) -> dict[str, Any]:
    """Run a job and kill a node after some scored units; `argument`: {"job": FILE, "root": URI, "units": N}."""
    wanted = json.loads(argument)
    command = [sys.executable, "-m", "s2l_ray", "run", wanted["job"], "--no-report", "--set", f"root={wanted['root']}"]
    with fixed_cluster([2, 2]) as nodes, tempfile.TemporaryFile("w+") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(lambda: driver.poll() is not None or len(units_of(wanted["root"])) >= wanted["units"], 240)
        before = units_of(wanted["root"])
        kill_raylet(nodes[1])
        killed = time.time()
        status = driver.wait(240)
        again = [path for path, at in units_of(wanted["root"]).items() if path in before and at > before[path]]
        log.seek(0)
        counts = {"at_kill": len(before), "again": len(again), "units": len(units_of(wanted["root"]))}
        return {**counts, "status": status, "seconds": time.time() - killed, "log": log.read()}


def units_of(root: str) -> dict[str, float]:
    """Modification times of the stored scoring units, in seconds."""
    entries = storage.list_files(storage.join(root, "trajectories"))
    return {entry.path: entry.mtime_ns / 1e9 for entry in entries if "/losses/" in entry.path}


def cold(argument: str) -> dict[str, Any]:
    """Run a job on an autoscaling cluster without nodes; `argument`: {"job": FILE, "root": URI}."""
    wanted = json.loads(argument)
    with autoscaling_cluster(max_nodes=2):
        command = [
            sys.executable,
            "-m",
            "s2l_ray",
            "run",
            wanted["job"],
            "--no-report",
            "--set",
            f"root={wanted['root']}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        with connect():
            wait_until(lambda: not cpus(), 90)
        return {"status": done.returncode, "log": done.stdout + done.stderr}


SCENARIOS: dict[str, Callable[[str], dict[str, Any]]] = {
    "grow": grow,
    "placement": placement,
    "lost": lost,
    "cold": cold,
}

if __name__ == "__main__":
    print(json.dumps(SCENARIOS[sys.argv[1]](sys.argv[2] if len(sys.argv) > 2 else "")))
