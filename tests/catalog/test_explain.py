"""Explanation of single rows, against rows whose fate is known."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.artifacts.manifest import Artifact
from s2l_ray.catalog.comparison.rankings import RowRank
from s2l_ray.catalog.explain import Explanation, GroupCounts, explain
from s2l_ray.errors import ConfigError
from tests.support.local_build import build_locally
from tests.support.pool_artifacts import PoolRow, write_clusters, write_subset, write_trajectories
from tests.support.stage_build import stage_config

SHARD, STEPS = 4, (0, 7)
# lines 1 to 12: an equal row at line 5, no response at line 6; every third line is of source b
RAW: list[dict[str, Any]] = [
    {"prompt": f"What is {line} + 1?", "response": f"It is {line + 1}.", "source": "b" if line % 3 == 0 else "a"}
    for line in range(1, 13)
]
RAW[4] = RAW[0]
RAW[5] = {**RAW[5], "response": ""}
KEPT = [line for line in range(1, 13) if line not in (5, 6)]
SELECTED, UNSCORED = [2, 4, 9], 12


# rows are ranked by the loss at step 7, which is half of the line
LOSS_LOW = {"method": "loss_low", "budget": 3, "within": "source"}


@pytest.fixture(scope="module")
def subset(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A subset of a dataset that was prepared from RAW, with made-up losses and clusters."""
    folder = tmp_path_factory.mktemp("explain")
    (folder / "rows").mkdir()
    (folder / "rows" / "part.jsonl").write_text("".join(json.dumps(row) + "\n" for row in RAW))
    sources = [{"path": "rows", "source": {"field": "source"}}]
    data = {"sources": sources, "tokenizer": {"train": {"vocab_size": 300}}, "shard_size": SHARD}
    dataset = build_locally(stage_config(folder, data=data), "dataset")
    ids = dataset.read_table(["example_id"])["example_id"].to_pylist()
    rows = [
        PoolRow(
            example_id,
            RAW[line - 1]["source"],
            "non_finite" if line == UNSCORED else "ok",
            (float(line), float("nan") if line == UNSCORED else line / 2),
            None if line == UNSCORED else line % 2,
        )
        for example_id, line in zip(ids, KEPT, strict=True)
    ]
    shards = [rows[start : start + SHARD] for start in range(0, len(rows), SHARD)]
    inputs = {"dataset": dataset.manifest.fingerprint, "trajectories": "1" * 12, "clusters": "1" * 12}
    write_trajectories(f"{folder}/trajectories/{'1' * 12}", shards, STEPS, {"dataset": inputs["dataset"]})
    write_clusters(f"{folder}/clusters/{'1' * 12}", shards, inputs={"trajectories": "1" * 12})
    return write_subset(f"{folder}/subset/{'1' * 12}", shards, [KEPT.index(line) for line in SELECTED], inputs, "s2l")


def test_a_method_that_ranks_has_a_rank_and_a_smallest_budget(subset: Artifact) -> None:
    """By hand: lines 1, 2, 4, 7, 8, 10, 11 of source a and 3, 9 of b can be selected, the lowest lines first."""
    config = {"select": LOSS_LOW, "data": {"root": "."}}
    ranked = replace(subset, manifest=replace(subset.manifest, config=config))
    ranks = {line: explain(ranked, f"part.jsonl:{line}")[0].rank for line in (1, 7, 3, 9)}
    # of 9 rows, quotas of 1 to 9 for source a: 1, 2, 2, 3, 4, 5, 5, 6, 7
    assert ranks == {1: RowRank(1, 7, 1), 7: RowRank(4, 7, 5), 3: RowRank(1, 2, 3), 9: RowRank(2, 2, 7)}
    assert of_line(subset, 1).rank is None


def of_line(subset: Artifact, line: int) -> Explanation:
    (found,) = explain(subset, f"rows/part.jsonl:{line}")
    return found


@pytest.mark.parametrize("line", [line for line in KEPT if line != UNSCORED])
def test_a_row_of_the_pool(subset: Artifact, line: int) -> None:
    found, raw = of_line(subset, line), RAW[line - 1]
    assert found.outcome == ("selected" if line in SELECTED else "not selected")
    assert (found.line, found.source, found.response) == (line, raw["source"], raw["response"])
    assert raw["prompt"] in (found.prompt or "")
    assert found.losses == {0: float(line), 7: line / 2}
    assert found.tokens and found.target_tokens and 0 < found.target_tokens < found.tokens
    # by hand: lines 3 and 9 are of source b; 7, 1, 9, 11, 3 and 2, 4, 8, 10 have odd and even clusters
    assert found.source_counts == (GroupCounts("b", 2, 1) if line % 3 == 0 else GroupCounts("a", 7, 2))
    assert found.cluster == (GroupCounts("1", 5, 1) if line % 2 else GroupCounts("0", 4, 2))


def test_an_id_and_its_line_mean_the_same_row(subset: Artifact) -> None:
    by_line = of_line(subset, 8)
    assert by_line.example_id is not None
    assert explain(subset, by_line.example_id) == [by_line]
    assert explain(subset, f"/data/rows/{by_line.file}:8") == [by_line]


def test_a_held_out_row(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {line}?", "response": f"{line}."} for line in range(1, 13)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"tokenizer": {"train": {"vocab_size": 300}}, "held_out": {"per_source": 1}}
    config = stage_config(tmp_path, data={"sources": [{"path": "rows.jsonl"}], **data}, select={"method": "random"})
    subset = build_locally(config)
    found = [one for line in range(1, 13) for one in explain(subset, f"rows.jsonl:{line}")]
    (held_out,) = [one for one in found if one.outcome == "held out"]
    assert held_out.line is not None and held_out.response == f"{held_out.line}."
    assert held_out.example_id is not None and explain(subset, held_out.example_id) == [held_out]


def test_an_equal_row_is_rejected_and_its_id_means_both(subset: Artifact) -> None:
    duplicate, first = of_line(subset, 5), of_line(subset, 1)
    assert (duplicate.outcome, duplicate.reason, duplicate.example_id) == ("rejected", "duplicate", first.example_id)
    assert first.example_id is not None
    assert explain(subset, first.example_id) == [first, duplicate]


def test_rows_that_cannot_be_selected_have_a_reason(subset: Artifact) -> None:
    rejected = of_line(subset, 6)
    assert (rejected.outcome, rejected.reason) == ("rejected", "empty_response")
    unscored = of_line(subset, UNSCORED)
    assert (unscored.outcome, unscored.reason) == ("not in the pool", "non_finite")
    assert unscored.losses == {0: float(UNSCORED), 7: None}
    assert (unscored.cluster, unscored.source_counts) == (None, None)


@pytest.mark.parametrize("row", ["part.jsonl:13", "other.jsonl:1", "0" * 32, "art.jsonl:1"])
def test_a_row_that_was_never_read_is_refused(subset: Artifact, row: str) -> None:
    with pytest.raises(ConfigError, match="FILE:LINE"):
        explain(subset, row)
    with pytest.raises(ConfigError, match="dataset"):
        explain(subset.input("dataset"), "part.jsonl:1")
