"""A whole run: contents of the artifacts, reuse by a second run, damaged artifacts."""

import json
from collections import Counter
from pathlib import Path

import pytest

from s2l_ray.artifacts.execution import Execution, SelectExecution, write_execution
from s2l_ray.artifacts.facts import DatasetFacts, TrajectoriesFacts
from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.artifacts.provenance import libraries
from s2l_ray.artifacts.runs import read_history
from s2l_ray.catalog.listing import COMPLETE, DAMAGED
from s2l_ray.catalog.verify import verify_artifact
from s2l_ray.config.load import load_config
from s2l_ray.errors import DamagedError
from s2l_ray.pipeline.plan import plan
from s2l_ray.pipeline.run import run


def modification_times(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_every_row_is_kept_or_rejected_with_the_right_reason(finished: Path) -> None:
    planned = plan(load_config(finished))
    truth = [json.loads(line) for line in (finished.parent / "demo" / "truth.jsonl").open()]
    dataset = open_artifact(planned["dataset"].uri)
    counts = dataset.manifest.counts
    assert counts.read == len(truth) == counts.kept + sum(counts.rejected.values())
    held_out = dataset.facts(DatasetFacts).held_out
    reasons = Counter(row["reason"] for row in truth if row["reason"])
    assert counts.rejected == reasons + Counter(held_out=sum(held_out.values()))
    subset = open_artifact(planned["subset"].uri)
    expected = int(0.2 * dataset.facts(DatasetFacts).ok)
    assert subset.manifest.counts.kept == subset.read_table().num_rows == expected


def test_shards_of_all_kinds_hold_the_same_rows_and_the_subset_points_to_them(finished: Path) -> None:
    planned = plan(load_config(finished))
    tables = {
        kind: list(open_artifact(planned[kind].uri).read_tables()) for kind in ("dataset", "trajectories", "clusters")
    }
    assert len(tables["dataset"]) >= 4
    for dataset, trajectories, clusters in zip(*tables.values(), strict=True):
        assert dataset["example_id"] == trajectories["example_id"] == clusters["example_id"]
    for selected in open_artifact(planned["subset"].uri).read_table().to_pylist():
        shard, row = selected["shard"], selected["row"]
        assert tables["dataset"][shard]["example_id"][row].as_py() == selected["example_id"]
        assert tables["clusters"][shard]["cluster"][row].as_py() == selected["cluster"]


def test_a_second_run_writes_nothing(finished: Path) -> None:
    config = load_config(finished)
    root = finished.parent / "artifacts"
    built = ("dataset", "checkpoints", "trajectories", "clusters", "subset")
    assert {step.kind: step.state for step in plan(config).steps} == dict.fromkeys(built, COMPLETE)
    before = modification_times(root)
    assert run(config).uri == plan(config)["subset"].uri
    assert modification_times(root) == before
    assert [verify_artifact(step.uri).faults for step in plan(config).steps] == [()] * len(built)


def test_losses_are_computed_packed_and_their_error_is_measured(finished: Path) -> None:
    planned = plan(load_config(finished))
    sealed = [json.loads(path.read_text()) for path in Path(planned["checkpoints"].uri).glob("step-*/checkpoint.json")]
    assert {checkpoint["attention"]["attention"] for checkpoint in sealed} == {"packed"}
    assert max(checkpoint["attention"]["difference"] for checkpoint in sealed) < 1e-4
    facts = open_artifact(planned["trajectories"].uri).facts(TrajectoriesFacts)
    assert set(facts.attention) == {"packed"}
    numerics = facts.numerics
    assert 100 < numerics["rows"] <= 300, "rows with a target, of all shards"
    assert (numerics["device"], numerics["attention"]) == ("cpu", "packed")
    assert 0 <= numerics["padding"] < 1e-5 and 0 <= numerics["batch"] < 1e-5
    assert 0 < numerics["bfloat16_mean"] <= numerics["bfloat16_largest"] < 0.2


def test_random_selection_needs_no_proxy(finished: Path) -> None:
    config = load_config(finished, ["select.method=random", "select.budget=50"])
    assert [step.kind for step in plan(config).steps] == ["dataset", "subset"]
    subset = run(config)
    assert subset.manifest.inputs.keys() == {"dataset"}
    assert subset.read_table().num_rows == 50


def test_a_run_is_recorded_with_the_fingerprints_of_its_artifacts(finished: Path) -> None:
    config = load_config(finished, ["select.method=random", "select.budget=51", "run=recorded"])
    run(config)
    (entry,) = read_history(config.root, "recorded")
    assert entry.fingerprints == plan(config).fingerprints
    assert entry.config["select"]["budget"] == 51
    folder = Path(config.root) / "runs" / "recorded" / entry.started
    assert (folder / "plan.json").is_file()
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [event["kind"] for event in events if event.get("built")] == ["subset", "run"]


def test_a_resume_under_other_library_versions_is_recorded_in_the_manifest(finished: Path) -> None:
    config = load_config(finished, ["select.method=random", "select.budget=52"])
    before = libraries() | {"pyarrow": "0.0.1"}
    write_execution(plan(config)["subset"].uri, Execution(SelectExecution(), before))
    execution = run(config, allow_version_change=True).manifest.execution
    assert (execution.libraries, execution.resumed_with) == (before, [libraries()])


def test_a_damaged_artifact_is_refused_and_rebuilt(finished: Path) -> None:
    config = load_config(finished, ["select.method=source_balanced"])
    before = run(config).read_table()
    shard = Path(plan(config)["subset"].uri) / "shard-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert plan(config)["subset"].state == DAMAGED
    with pytest.raises(DamagedError, match="--rebuild subset"):
        run(config)
    assert run(config, rebuild="subset").read_table() == before
    (replaced,) = (finished.parent / "artifacts" / "replaced").glob("subset-*")
    assert (replaced / shard.name).is_file()


def test_a_flipped_bit_in_an_input_is_found_when_it_is_read(finished: Path) -> None:
    config = load_config(finished, ["cluster.k=3"])
    shard = Path(plan(config)["trajectories"].uri) / "shard-00001.parquet"
    intact = shard.read_bytes()
    flipped = bytearray(intact)
    flipped[len(intact) // 2] ^= 16
    shard.write_bytes(flipped)
    try:
        assert plan(config)["trajectories"].state == COMPLETE, "the size is the same"
        assert [fault.path for fault in verify_artifact(plan(config)["trajectories"].uri).faults] == [shard.name]
        with pytest.raises(DamagedError, match=r"shard-00001\.parquet.*--rebuild trajectories"):
            run(config)
    finally:
        shard.write_bytes(intact)
