"""`s2l compare`, `s2l explain`, and `s2l plan` of an experiment."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from s2l_ray.cli import app
from tests.support.jobs import small_job
from tests.support.pool_artifacts import PoolRow, write_dataset, write_subset
from tests.support.small_store import write_store


def s2l(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def subsets(tmp_path: Path) -> list[str]:
    """Two subsets of four of ten rows, of which they share three."""
    shards = [[PoolRow(f"id-{row}", "ab"[row % 2]) for row in range(10)]]
    write_dataset(f"{tmp_path}/dataset/{'d' * 12}", shards)
    inputs = {"dataset": "d" * 12}
    return [
        write_subset(f"{tmp_path}/subset/{number:012x}", shards, rows, inputs).uri
        for number, rows in enumerate(([0, 2, 4, 5], [0, 2, 4, 7]))
    ]


def test_compare_of_two_subsets(subsets: list[str]) -> None:
    values = json.loads(s2l("compare", *subsets, "--json").stdout)
    assert values["version"] == 1 and [one["uri"] for one in values["subsets"]] == subsets
    (pair,) = values["subset_pairs"]
    assert pair["rows"] == {"first": 4, "second": 4, "shared": 3, "overlap": 0.75, "jaccard": 0.6}
    assert pair["by_chance"] == 0.4
    shown = s2l("compare", *subsets).stdout
    assert "75.0 %" in shown and "0.600" in shown


def test_compare_refuses_one_subset_and_a_file_that_it_does_not_write(subsets: list[str], tmp_path: Path) -> None:
    assert s2l("compare", subsets[0]).exit_code == 2
    assert s2l("compare", *subsets, "--to", tmp_path / "results.csv").exit_code == 2
    assert not (tmp_path / "results.csv").exists()


def test_explain_shows_a_selected_row_and_one_that_is_not(tmp_path: Path) -> None:
    store = write_store(tmp_path)
    for position, outcome in ((0, "selected"), (1, "not selected")):
        values = json.loads(s2l("explain", store.subset.uri, f"rows.jsonl:{position + 1}", "--json").stdout)
        (row,) = values["rows"]
        assert (row["outcome"], row["line"], row["response"]) == (outcome, position + 1, store.rows[position]["output"])
        shown = s2l("explain", store.subset.uri, row["example_id"]).stdout
        assert outcome in shown and store.rows[position]["output"] in shown
    assert s2l("explain", store.subset.uri, "rows.jsonl:99").exit_code == 2


def test_an_experiment_is_planned_and_has_no_results_yet(tmp_path: Path) -> None:
    job = small_job(tmp_path, rows=60)
    experiment = tmp_path / "experiment.yaml"
    arms = {"s2l": {}, "random": {"select.method": "random"}}
    experiment.write_text(yaml.safe_dump({"job": job.name, "arms": arms, "seeds": [0, 1]}))
    values = json.loads(s2l("plan", experiment, "--json").stdout)
    assert {one["run"] for one in values["jobs"]} == {f"small.{arm}.{seed}" for arm in arms for seed in (0, 1)}
    (dataset,) = [one for one in values["artifacts"] if one["kind"] == "dataset"]
    assert dataset["build"] and len(dataset["jobs"]) == 4
    shown = s2l("plan", experiment)
    assert shown.exit_code == 0
    assert all(one["fingerprint"] in shown.stdout for one in values["artifacts"])
    result = s2l("compare", experiment)
    assert result.exit_code == 2 and "run" in result.stderr
    assert s2l("compare", experiment, "--to", tmp_path / "results.txt").exit_code == 2
    for arguments in (["run", experiment, "--rebuild", "subset"], ["run", experiment, "--to", "clusters"]):
        assert s2l(*arguments).exit_code == 2
    export = s2l("export", experiment, "--to", tmp_path / "rows.jsonl")
    assert export.exit_code == 2 and job.name in export.stderr
