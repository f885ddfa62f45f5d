"""The whole way: built once, found again, rebuilt where a key changed and nowhere else, killed anywhere."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.catalog.verify import verify
from s2l_ray.config.load import load_config
from s2l_ray.errors import ConfigError, DamagedError
from s2l_ray.pipeline.run import COMPLETE, DAMAGED, KINDS, Plan, plan, run, run_steps
from tests.support.jobs import small_job, subset_sha256


def states(planned: Plan) -> dict[str, str]:
    return {step.kind: step.state for step in planned.steps}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """The job file of a job that ran through."""
    job = small_job(tmp_path_factory.mktemp("finished"))
    run(load_config(job))
    return job


def test_every_row_is_accounted_for(finished: Path) -> None:
    planned = plan(load_config(finished))
    truth = [json.loads(line) for line in (finished.parent / "demo" / "truth.jsonl").open()]
    dataset = open_artifact(planned["dataset"].uri).manifest
    assert dataset.counts["read"] == len(truth)
    assert dataset.counts["kept"] + sum(dataset.counts["set_aside"].values()) == len(truth)
    expected: dict[str, int] = {}
    for row in truth:
        if row["reason"]:
            expected[row["reason"]] = expected.get(row["reason"], 0) + 1
    assert dataset.counts["set_aside"] == expected
    subset = open_artifact(planned["subset"].uri)
    assert subset.manifest.counts["kept"] == len(subset.read_table()) == int(0.2 * dataset.facts["ok"])


def test_shards_travel_whole(finished: Path) -> None:
    """Shard i of every kind holds the same examples in the same order, and a pick points at its row."""
    planned = plan(load_config(finished))
    kinds = {kind: open_artifact(planned[kind].uri) for kind in ("dataset", "trajectories", "clusters", "subset")}
    tables = {kind: list(kinds[kind].read_tables()) for kind in ("dataset", "trajectories", "clusters")}
    assert len(tables["dataset"]) >= 4
    for one, two, three in zip(*tables.values(), strict=True):
        assert one["example_id"] == two["example_id"] == three["example_id"]
    for pick in kinds["subset"].read_table().to_pylist():
        assert tables["dataset"][pick["shard"]]["example_id"][pick["row"]].as_py() == pick["example_id"]
        assert tables["clusters"][pick["shard"]]["cluster"][pick["row"]].as_py() == pick["cluster"]


def test_a_second_run_finds_everything(finished: Path) -> None:
    config = load_config(finished)
    assert set(states(plan(config)).values()) == {COMPLETE}
    assert list(run_steps(config)) == []
    for kind in KINDS:
        assert list(verify(plan(config)[kind].uri)) == []


def test_a_changed_key_rebuilds_what_stands_on_it(finished: Path) -> None:
    changed = plan(load_config(finished, ["cluster.k=5"]))
    assert [step.kind for step in changed.missing] == ["clusters", "subset"]
    assert changed["clusters"].reasons == ("cluster.k: 4 -> 5",)
    assert changed["subset"].reasons == ("another clusters",)
    budget = plan(load_config(finished, ["select.budget=30"]))
    assert [step.kind for step in budget.missing] == ["subset"]


def test_resources_and_addresses_are_no_identity(finished: Path, tmp_path: Path) -> None:
    overrides = [
        "resources.score.tokens_per_batch=99",
        "resources.train.workers=2",
        "resources.cluster.backend=cuml",
    ]
    assert plan(load_config(finished, overrides)).missing == ()
    moved = tmp_path / "elsewhere"
    moved.symlink_to(finished.parent / "demo")
    assert plan(load_config(finished, [f"data.root={moved}"])).missing == ()


def test_the_manifests_say_how_exact_the_losses_are(finished: Path) -> None:
    planned = plan(load_config(finished))
    trained_by = [one["trained_by"] for one in open_artifact(planned["checkpoints"].uri).manifest.facts["checkpoints"]]
    assert {way["attention"] for way in trained_by} == {"packed"}
    assert max(way["gradient_difference"] for way in trained_by) < 1e-4
    facts = open_artifact(planned["trajectories"].uri).manifest.facts
    assert set(facts["scoring_paths"]) == {"packed"}
    numerics = facts["numerics"]
    assert 90 < numerics["rows"] <= 100, "those with a target in the first shard"
    assert (numerics["device"], numerics["attention"]) == ("cpu", "packed")
    assert 0 <= numerics["padding"] < 1e-5 and 0 <= numerics["batch"] < 1e-5
    assert 0 < numerics["bfloat16_mean"] <= numerics["bfloat16_largest"] < 0.2


def test_random_needs_no_proxy(finished: Path) -> None:
    planned = plan(load_config(finished, ["select.method=random"]))
    assert [step.kind for step in planned.steps] == ["dataset", "subset"]
    subset = run(load_config(finished, ["select.method=random", "select.budget=50"]))
    assert subset.manifest.inputs.keys() == {"dataset"}
    assert subset.read_table().num_rows == 50


def test_a_damaged_artifact_is_refused_and_rebuilt(finished: Path) -> None:
    config = load_config(finished, ["select.method=source_balanced"])
    run(config)
    before = open_artifact(plan(config)["subset"].uri).read_table()
    shard = Path(plan(config)["subset"].uri) / "shard-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert plan(config)["subset"].state == DAMAGED
    with pytest.raises(DamagedError, match="--rebuild subset"):
        run(config)
    for _ in run_steps(config, rebuild="subset"):
        pass
    assert open_artifact(plan(config)["subset"].uri).read_table() == before


def test_a_flipped_bit_in_an_input_is_refused_by_name(finished: Path) -> None:
    """Of the same size, so that only reading it tells."""
    config = load_config(finished, ["cluster.k=3"])
    shard = Path(plan(config)["trajectories"].uri) / "shard-00001.parquet"
    whole = shard.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 16
    shard.write_bytes(bytes(flipped))
    try:
        assert [fault.path for fault in verify(plan(config)["trajectories"].uri)] == [shard.name]
        with pytest.raises(DamagedError, match=r"shard-00001\.parquet.*--rebuild trajectories"):
            run(config)
    finally:
        shard.write_bytes(whole)


def test_a_budget_over_the_pool_is_refused(finished: Path) -> None:
    with pytest.raises(ConfigError, match=r"select\.budget"):
        run(load_config(finished, ["select.budget=100000"]))


# ---- kill -9 of the driver, in every stage that takes time


def start(job: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "s2l_ray", "run", str(job)]
    with (job.parent / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "RAY_ADDRESS": ""})


def kill_when(job: Path, ready: Callable[[], bool], limit: float = 240) -> None:
    """Start the job and kill -9 its driver at the moment `ready`."""
    driver = start(job)
    deadline = time.monotonic() + limit
    while not ready():
        assert driver.poll() is None, (job.parent / "log").read_text()[-3000:]
        assert time.monotonic() < deadline, "the moment to kill never came"
        time.sleep(0.02)
    children = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    while any(_works(child) for child in children):  # what they have in hand they may still finish
        assert time.monotonic() < deadline + 60
        time.sleep(0.05)


def _works(process: psutil.Process) -> bool:
    """Whether it is a worker of Ray's that lives; Ray's agents stay for another minute and write nothing of ours."""
    try:
        title = (process.cmdline() or [""])[0]
        return title.startswith("ray::") and "Agent" not in title
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_killed_in_train_score_and_cluster_with_a_unit_damaged_the_subset_is_the_same(
    finished: Path, tmp_path: Path
) -> None:
    job = small_job(tmp_path / "killed")
    root = tmp_path / "killed" / "artifacts"
    sizes = {kind: lambda pattern=pattern: len(list(root.glob(pattern))) for kind, pattern in PATTERNS.items()}

    kill_when(job, lambda: sizes["checkpoints"]() >= 3)
    assert sizes["trajectories"]() == 0
    first_checkpoint = next(root.glob("checkpoints/*/step-000000/checkpoint.json"))
    written = first_checkpoint.stat().st_mtime_ns

    kill_when(job, lambda: sizes["trajectories"]() >= 3)
    assert first_checkpoint.stat().st_mtime_ns == written, "a checkpoint that is there is not written again"
    unit = min(root.glob(PATTERNS["trajectories"]))
    data = bytearray(unit.read_bytes())
    data[len(data) // 2] ^= 4
    unit.write_bytes(bytes(data))
    folder = next(root.glob("trajectories/*"))
    assert [fault.path for fault in verify(str(folder))] == [str(unit.relative_to(folder))]
    done = {path: path.stat().st_mtime_ns for path in root.glob(PATTERNS["trajectories"])}

    kill_when(job, lambda: sizes["clusters"]() >= 1)
    again = [path for path, at in done.items() if path.stat().st_mtime_ns != at]
    assert again == [unit], "of what was there, score did the damaged unit alone"
    centroids = next(root.glob("clusters/*/centroids.parquet"))
    fitted = centroids.stat().st_mtime_ns

    assert start(job).wait(timeout=240) == 0, (job.parent / "log").read_text()[-3000:]
    assert centroids.stat().st_mtime_ns == fitted
    assert subset_sha256(root) == _subset_sha256_of(finished)
    units = open_artifact(plan(load_config(job))["trajectories"].uri).manifest.counts
    assert units["units_scored"] == units["units"] - len(done) + 1
    assert list(verify(str(folder))) == []


@pytest.mark.long
def test_a_second_driver_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    job = small_job(tmp_path / "two")
    root = tmp_path / "two" / "artifacts"
    first = start(job)
    deadline = time.monotonic() + 120
    while not list(root.glob("dataset/*/building")):
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGSTOP)  # it lives, and does not finish before the second has looked
    command = [sys.executable, "-m", "s2l_ray", "run", str(job)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert second.returncode == 1
    assert f"pid {first.pid}" in second.stderr
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert subprocess.run([*command, "--to", "dataset"], capture_output=True, timeout=120).returncode == 0


PATTERNS = {
    "checkpoints": "checkpoints/*/step-*/checkpoint.json",
    "trajectories": "trajectories/*/losses/*/*.parquet",
    "clusters": "clusters/*/centroids.parquet",
}


def _subset_sha256_of(job: Path) -> str:
    (record,) = open_artifact(plan(load_config(job))["subset"].uri).shards()
    assert pq.read_metadata(Path(plan(load_config(job))["subset"].uri) / record.path).num_rows == record.rows
    return record.sha256
