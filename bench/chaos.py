"""Kills at random moments of whole runs: `python -m bench.chaos [--runs N] [--kills N] [--seed N] [--disk]`.

The embedded job runs on a head without CPUs and two worker nodes, all on this machine, with its artefacts in a real S3
server behind a proxy that lets 5 % of the calls go wrong (on a disk with --disk). As it works, one of these is killed
with SIGKILL every few seconds: the driver, an actor's process, a training worker, the raylet of a worker node, which a
new node replaces. A driver that has ended before the job is done is started again, by the same command. Held against
the subset of a run that nobody disturbed: the bytes, what `verify` says of every artefact once `gc` has been there, and
the rows. Moments, victims and faults follow from the seed; what a victim was doing just then does not.
Exits with 1 if a run ends otherwise.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import psutil
from ray.cluster_utils import Cluster

from bench.rounds import RESULTS, Report, Row
from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.catalog.gc import find_garbage, remove_garbage
from s2l_ray.catalog.listing import COMPLETE
from s2l_ray.catalog.verify import verify_artifact
from s2l_ray.config.load import load_config
from s2l_ray.config.sections import Config
from s2l_ray.demo.dataset import make_demo
from s2l_ray.pipeline.plan import plan
from tests.support.fault_proxy import FaultProxy, Faults, fault_proxy
from tests.support.s3 import BUCKET, environment_of, s3_server

JOB = Path(__file__).parents[1] / "jobs" / "demo.yaml"
CHANGES = (
    *("proxy.epochs=2", "proxy.batch_size=32", "data.shard_size=64", "cluster.k=8", "data.held_out.per_source=20"),
    *("resources.train.save_minutes=0.02", "resources.train.threads=1", "resources.train.gpus=0"),
    "resources.train.workers=2",
    *("resources.score.workers=[1,2]", "resources.score.gpus=0"),
)
SIGNS = {"training worker": ("RayTrainWorker",), "actor": ("MapWorker", "UnitActor", "ray::Map(")}
VICTIMS = ("driver", "actor", "training worker", "raylet")
PAUSE_SECONDS = (0.0, 6.0)
"""From the first word of a stage after a kill to the next kill."""
STARTS = 40
"""Of one run's driver, before it is taken for one that never ends."""
LIMIT_SECONDS = 900


@dataclass
class Nodes:
    """A head without CPUs, and the worker nodes that live now."""

    cluster: Cluster
    workers: list[Any] = field(default_factory=list)

    def add(self) -> None:
        self.workers.append(self.cluster.add_node(num_cpus=3, object_store_memory=100_000_000))

    def kill(self, rng: random.Random) -> None:
        """SIGKILL for a raylet; a new node comes in its place."""
        node = self.workers.pop(rng.randrange(len(self.workers)))
        node.all_processes["raylet"][0].process.send_signal(signal.SIGKILL)
        with contextlib.suppress(Exception):  # what is left of it; that its raylet is dead already is the point
            self.cluster.remove_node(node, allow_graceful=False)
        self.add()


@dataclass
class Run:
    """One job on its way through the kills."""

    command: list[str]
    log: Path
    kills: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    read: int = 0
    driver: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.starts += 1
        with self.log.open("ab") as log:
            self.driver = subprocess.Popen(self.command, stdout=log, stderr=log)

    def ended(self) -> bool:
        """Whether the job is done; a driver that ended otherwise is started again."""
        assert self.driver is not None
        status = self.driver.poll()
        if status is None or status == 0:
            return status == 0
        if self.starts >= STARTS:
            raise RuntimeError(f"{STARTS} drivers ended without a subset:\n{self.log.read_text()[-3000:]}")
        self.start()
        return False

    def works(self) -> bool:
        """Whether the driver has spoken of a stage since the last kill: one that is about to begin is no victim."""
        with self.log.open("rb") as log:
            log.seek(self.read)
            said = log.read().decode(errors="replace").splitlines()
        return any(" \N{MIDDLE DOT} " in line and not line.endswith(("Ray", "starting")) for line in said)

    def kill(self, rng: random.Random, nodes: Nodes, before: Counter[str]) -> None:
        """One of the victims that there are at this moment, of a kind that has been killed least so far."""
        assert self.driver is not None
        found = {"driver": [psutil.Process(self.driver.pid)]} | _processes()
        kinds = [one for one in VICTIMS if found.get(one) or one == "raylet"]
        fewest = min((self.kills + before)[one] for one in kinds)
        kind = rng.choice([one for one in kinds if (self.kills + before)[one] == fewest])
        if kind == "raylet":
            nodes.kill(rng)
        else:
            with contextlib.suppress(psutil.NoSuchProcess):
                rng.choice(found[kind]).kill()
        self.kills[kind] += 1
        self.read = self.log.stat().st_size


def _processes() -> dict[str, list[psutil.Process]]:
    """The processes of actors and training workers on all nodes, by kind."""
    found: dict[str, list[psutil.Process]] = {kind: [] for kind in SIGNS}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.cmdline())
            for kind, signs in SIGNS.items():
                if any(sign in title for sign in signs):
                    found[kind].append(process)
    return found


@contextlib.contextmanager
def nodes_of_this_machine() -> Iterator[Nodes]:
    """The cluster, to which `RAY_ADDRESS` leads."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = Nodes(cluster)
    try:
        for _ in range(2):
            nodes.add()
        os.environ["RAY_ADDRESS"] = cluster.address
        yield nodes
    finally:
        cluster.shutdown()


@contextlib.contextmanager
def faulty_store(folder: Path, seed: int) -> Iterator[FaultProxy]:
    """A real S3 server behind a proxy of faults; the environment leads to the proxy."""
    with s3_server(folder) as server, fault_proxy(server.endpoint, Faults(0.05, seed, stall_seconds=3.0)) as proxy:
        os.environ |= environment_of(proxy.endpoint)
        yield proxy


def run_through(run: Run, kills: int, rng: random.Random, nodes: Nodes, before: Counter[str]) -> None:
    """Start the job and kill until it is done; `before`: who was killed in other runs."""
    run.start()
    deadline = time.monotonic() + LIMIT_SECONDS
    moment: float | None = None
    while not run.ended():
        if time.monotonic() > deadline:
            raise RuntimeError(f"no subset in {LIMIT_SECONDS} seconds:\n{run.log.read_text()[-3000:]}")
        if moment is None and run.kills.total() < kills and run.works():
            moment = time.monotonic() + rng.uniform(*PAUSE_SECONDS)
        if moment is not None and time.monotonic() >= moment:
            run.kill(rng, nodes, before)
            moment = None
        time.sleep(0.05)


def subset_of(config: Config) -> list[str]:
    """sha256 of the subset's shards."""
    return [record.sha256 for record in open_artifact(plan(config)["subset"].uri).shards()]


def faults_of(config: Config, expected: list[str]) -> list[str]:
    """What is wrong with a finished run; nothing, if all is well."""
    planned = plan(config)
    wrong = [f"{step.kind} is {step.state}" for step in planned.steps if step.state != COMPLETE]
    if wrong:
        return wrong
    # what a driver left that was killed behind its manifest is told by both, and goes by the one
    list(remove_garbage(config.root, find_garbage(config.root)))
    wrong = [
        f"{step.kind}/{fault.path}: {fault.problem}"
        for step in planned.steps
        for fault in verify_artifact(step.uri).faults
    ]
    if subset_of(config) != expected:
        wrong.append("another subset")
    counts = open_artifact(planned["dataset"].uri).manifest.counts
    scored = sum(record.rows or 0 for record in open_artifact(planned["trajectories"].uri).shards())
    if counts.kept != scored:
        wrong.append(f"{counts.kept} rows kept, {scored} trajectories")
    return wrong


def command_of(demo: Path, root: str) -> tuple[list[str], Config]:
    """The job as a command, and as a config."""
    changes = [*CHANGES, f"root={root}", f"data.root={demo}"]
    words = [word for change in changes for word in ("--set", change)]
    return [sys.executable, "-m", "s2l_ray", "run", str(JOB), *words], load_config(JOB, changes)


def undisturbed(folder: Path, demo: Path) -> list[str]:
    """The subset of a run on this machine's disk that nobody disturbs."""
    command, config = command_of(demo, str(folder / "undisturbed"))
    subprocess.run(command, check=True, env=os.environ | {"RAY_ADDRESS": ""}, capture_output=True)
    return subset_of(config)


def main(arguments: list[str]) -> int:
    """Run all, print a line a run, write bench/results/chaos.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.chaos")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--kills", type=int, default=12, help="at most so many in each run")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--disk", action="store_true", help="artefacts on a disk, no faults of storage")
    parser.add_argument("--results", type=Path, default=RESULTS / "chaos.json")
    given = parser.parse_args(arguments)
    report = Report("chaos", {key: str(value) for key, value in vars(given).items()}, ["ray", "pyarrow", "obstore"])
    kills: Counter[str] = Counter()
    wrong: list[str] = []
    seconds, starts = [], []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos")))
        make_demo(folder / "demo", rows=given.rows)
        expected = undisturbed(folder, folder / "demo")
        proxy = None if given.disk else stack.enter_context(faulty_store(folder / "s3", given.seed))
        nodes = stack.enter_context(nodes_of_this_machine())
        for number in range(given.runs):
            place = str(folder / f"run-{number}") if given.disk else f"s3://{BUCKET}/run-{number}"
            command, config = command_of(folder / "demo", place)
            run, begun = Run(command, folder / f"{number}.log"), time.monotonic()
            run_through(run, given.kills, random.Random(f"{given.seed}/{number}"), nodes, kills)
            found = faults_of(config, expected)
            kills, wrong = kills + run.kills, wrong + found
            seconds.append(time.monotonic() - begun)
            starts.append(float(run.starts))
            told = ", ".join(f"{count} x {kind}" for kind, count in sorted(run.kills.items()))
            print(f"run {number}: {told}; {run.starts} drivers, {seconds[-1]:.0f} s; {found or 'the same subset'}")
        faults = Counter({kind: count for kind, count in proxy.counts.items() if kind}) if proxy else Counter()
    report.add(Row("faults of the runs' artifacts", [float(len(wrong))], 0, 0, lower_is_better=True))
    report.add(Row("kills", [float(kills.total())]))
    for kind in VICTIMS:
        report.add(Row(f"  {kind}", [float(kills[kind])]))
    report.add(Row("calls of storage that went wrong", [float(faults.total())]))
    report.add(Row("drivers a run", starts))
    report.add(Row("seconds a run", seconds))
    return report.finish(given.results)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
