"""Imports of losses: jobs without a proxy, with and without data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2l_ray.artifacts.facts import SubsetFacts, TrajectoriesFacts
from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.catalog.export.export import export_subset
from s2l_ray.config.load import make_config
from s2l_ray.config.sections import Config
from s2l_ray.errors import ConfigError, S2LError
from s2l_ray.pipeline.plan import plan
from s2l_ray.pipeline.preflight import check_feasible
from tests.support.local_build import build_locally

ROWS, STEPS = 90, 4


@pytest.fixture
def losses_NT() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 4.0, (ROWS, STEPS))


def job(folder: Path, losses_from: dict[str, Any], **sections: Any) -> Config:
    values: dict[str, Any] = {
        "root": str(folder / "root"),
        "run": "imported",
        "data": {"root": str(folder), "shard_size": 40},
        "score": {"losses_from": losses_from},
        "cluster": {"k": 3},
        "select": {"budget": 20},
    }
    for name, own in sections.items():
        values[name] = {**values.get(name, {}), **own}
    return make_config(values, "test")


def stored_losses(config: Config) -> list[list[float] | None]:
    return open_artifact(plan(config)["trajectories"].uri).read_table()["losses"].to_pylist()


@pytest.mark.parametrize("method", ["s2l", "random"])
def test_without_data_row_numbers_are_selected(tmp_path: Path, losses_NT: np.ndarray, method: str) -> None:
    np.save(tmp_path / "losses.npy", losses_NT)
    config = job(tmp_path, {"path": "losses.npy", "values": "loss"}, select={"method": method})
    subset = build_locally(config)
    assert subset.facts(SubsetFacts).by_source == {"losses": 20}
    exported = tmp_path / "subset.jsonl"
    assert export_subset(subset, str(exported)).rows == 20
    numbers = [json.loads(line)["row"] for line in exported.open()]
    assert numbers == sorted(set(numbers)) and set(numbers) <= set(range(ROWS))
    if method == "s2l":
        assert stored_losses(config) == losses_NT.astype(np.float32).tolist()


def test_names_of_rows_are_exported_beside_their_numbers(tmp_path: Path, losses_NT: np.ndarray) -> None:
    names = [f"row {number * 7 % ROWS}" for number in range(ROWS)]
    pq.write_table(pa.table({"uid": names, "p": np.exp(losses_NT[:, 0])}), tmp_path / "a.parquet")
    columns = {"path": "a.parquet", "values": "perplexity", "columns": {1: "p"}, "key": "uid"}
    config = job(tmp_path, columns, select={"method": "s2l"}, cluster={"checkpoints": "all"})
    exported = tmp_path / "subset.jsonl"
    export_subset(build_locally(config), str(exported))
    for line in exported.open():
        row = json.loads(line)
        assert row["uid"] == names[row["row"]]
    assert np.array(stored_losses(config))[:, 0] == pytest.approx(losses_NT[:, 0], rel=1e-6)


def test_a_new_file_of_losses_is_another_dataset_and_a_mapping_other_trajectories(
    tmp_path: Path, losses_NT: np.ndarray
) -> None:
    np.save(tmp_path / "losses.npy", losses_NT)
    spec = {"path": "losses.npy", "values": "loss"}
    before = plan(job(tmp_path, spec)).fingerprints
    assert list(before) == ["dataset", "trajectories", "clusters", "subset"]
    mapped = plan(job(tmp_path, {**spec, "columns": {0: 1, 1: 0}})).fingerprints
    assert mapped["dataset"] == before["dataset"] and mapped["trajectories"] != before["trajectories"]
    np.save(tmp_path / "losses.npy", losses_NT[:-1])
    after = plan(job(tmp_path, spec)).fingerprints
    assert after["dataset"] != before["dataset"] and after["trajectories"] != before["trajectories"]


def test_the_name_of_a_file_of_losses_is_identity_as_it_names_the_source(tmp_path: Path, losses_NT: np.ndarray) -> None:
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, losses_NT)
    first, second = (plan(job(tmp_path, {"path": name, "values": "loss"})).fingerprints for name in ("a.npy", "b.npy"))
    assert first["dataset"] != second["dataset"]


def test_a_missing_loss_ends_the_import_or_is_kept_as_missing(tmp_path: Path, losses_NT: np.ndarray) -> None:
    losses_NT[[3, 50], [1, 2]] = np.nan, np.inf
    np.save(tmp_path / "losses.npy", losses_NT)
    spec = {"path": "losses.npy", "values": "loss"}
    with pytest.raises(S2LError, match=r"row 3 at step 1.*score\.non_finite"):
        build_locally(job(tmp_path, spec), "trajectories")
    config = job(tmp_path, spec, score={"losses_from": spec, "non_finite": "null"})
    trajectories = build_locally(config, "trajectories")
    assert trajectories.manifest.counts.rejected == {"non_finite": 2}
    assert trajectories.facts(TrajectoriesFacts).ok_by_source == {"losses": ROWS - 2}
    loss = stored_losses(config)[3]
    assert loss is not None and loss[1] is None and loss[0] == np.float32(losses_NT[3, 0])


def test_logits_also_give_the_probability_of_the_class(tmp_path: Path) -> None:
    lines = [{"guid": guid, "logits_epoch_0": [0.1 * guid, 1.0], "gold": guid % 2} for guid in range(ROWS)]
    (tmp_path / "dynamics").mkdir()
    (tmp_path / "dynamics" / "epoch_0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = job(tmp_path, {"path": "dynamics", "values": "logits"})
    trajectories = build_locally(config, "trajectories")
    assert trajectories.facts(TrajectoriesFacts).statistics == ["mean_probability"]
    table = trajectories.read_table()
    for line, (probability,) in zip(lines, table["mean_probability"].to_pylist(), strict=True):
        e0, e1 = np.exp(line["logits_epoch_0"])
        assert probability == pytest.approx((e1 if line["gold"] else e0) / (e0 + e1), rel=1e-6)
    assert table["target_tokens"].null_count == ROWS, "nothing is known about lengths"


TOKENS = np.random.default_rng(1).permutation(ROWS) + 1


def with_lengths(folder: Path, losses_NT: np.ndarray) -> dict[str, Any]:
    """A file of summed losses with the numbers of target tokens, and its mapping."""
    pq.write_table(pa.table({"nll": losses_NT[:, 0] * TOKENS, "n": TOKENS}), folder / "nll.parquet")
    return {"path": "nll.parquet", "values": "nll_sum", "columns": {1: "nll"}, "tokens": "n"}


def test_lengths_of_row_numbers_are_those_of_the_losses(tmp_path: Path, losses_NT: np.ndarray) -> None:
    spec = with_lengths(tmp_path, losses_NT)
    longest = build_locally(job(tmp_path, spec, select={"method": "longest", "budget": 7}))
    assert {int(one) for one in longest.read_table()["example_id"].to_pylist()} == set(np.argsort(-TOKENS)[:7].tolist())
    budget = {"target_tokens": 300}
    subset = build_locally(job(tmp_path, spec, select={"method": "loss_low", "checkpoint": 1, "budget": budget}))
    rows = [int(one) for one in subset.read_table()["example_id"].to_pylist()]
    assert 300 - TOKENS.max() < sum(TOKENS[row] for row in rows) <= 300
    others = np.delete(losses_NT[:, 0], rows)
    assert losses_NT[rows, 0].max() < np.sort(others)[5], "but for rows that the budget has no room for"


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"select": {"method": "longest"}}, r"score\.losses_from\.tokens"),
        ({"select": {"method": "stratified"}}, r"score\.losses_from\.tokens"),
        ({"select": {"method": "random", "budget": {"target_tokens": 9}}}, r"score\.losses_from\.tokens"),
        ({"select": {"method": "random", "budget": {"tokens": 9}}}, r"data\.sources"),
        ({"cluster": {"features": "embeddings"}, "embed": {"model": "a/b"}}, r"data\.sources"),
    ],
)
def test_what_row_numbers_do_not_have_is_refused(
    tmp_path: Path, losses_NT: np.ndarray, sections: dict[str, Any], key: str
) -> None:
    np.save(tmp_path / "losses.npy", losses_NT)
    with pytest.raises(ConfigError, match=key):
        check_feasible(plan(job(tmp_path, {"path": "losses.npy", "values": "loss"}, **sections)))


# Rows with a duplicate, a faulty line and an empty line, so that examples are not the rows of the file.
TEXT = [f"Question {number}?" for number in range(ROWS)]


def write_rows(path: Path) -> list[int]:
    """Rows with ids 1000, 1001, ...; returns the numbers, among the rows of the file, of those that become examples."""
    lines, kept = [], []
    for number, text in enumerate(TEXT):
        lines.append({"id": 1000 + number, "instruction": text, "output": f"Answer {number}."})
        kept.append(len(lines) - 1)
        if number % 10 == 3:
            lines.append({**lines[-1], "id": 5000 + number})
        if number % 10 == 5:
            lines.append({"id": 6000 + number, "instruction": text})
    path.write_text("\n\n".join(json.dumps(line) for line in lines) + "\n")
    return kept


def data(*paths: str) -> dict[str, Any]:
    sources = [{"path": path, "format": "alpaca"} for path in paths]
    return {"sources": sources, "tokenizer": {"train": {"vocab_size": 300}}}


def test_losses_are_matched_to_examples_by_the_row_of_the_file(tmp_path: Path) -> None:
    kept = write_rows(tmp_path / "rows.jsonl")
    total = len([line for line in (tmp_path / "rows.jsonl").read_text().splitlines() if line])
    np.save(tmp_path / "losses.npy", np.arange(total, dtype=float))
    spec = {"path": "losses.npy", "values": "loss", "columns": {5: 0}}
    config = job(tmp_path, spec, data=data("rows.jsonl"))
    trajectories = build_locally(config, "trajectories")
    assert stored_losses(config) == [[number] for number in kept]
    assert trajectories.facts(TrajectoriesFacts).unused_rows == total - len(kept) > 0
    assert min(trajectories.read_table()["target_tokens"].to_pylist()) > 0
    np.save(tmp_path / "losses.npy", np.arange(total - 1, dtype=float))
    with pytest.raises(S2LError, match="same rows"):
        build_locally(config, "trajectories")


@pytest.mark.parametrize("key", ["id", "example_id"])
def test_losses_are_matched_to_examples_by_name(tmp_path: Path, key: str) -> None:
    """In another order, without one of the examples and with one that the dataset does not have."""
    write_rows(tmp_path / "rows.jsonl")
    dataset = build_locally(job(tmp_path, {"path": "a.npy", "values": "loss"}, data=data("rows.jsonl")), "dataset")
    ids = dataset.read_table(["example_id"])["example_id"].to_pylist()
    names = ids if key == "example_id" else [str(1000 + number) for number in range(ROWS)]
    wanted = dict(zip(names, np.linspace(0.5, 2.0, ROWS), strict=True))
    dropped = names[7]
    table = {name: loss for name, loss in sorted(wanted.items(), reverse=True) if name != dropped} | {"unknown": 9.0}
    pq.write_table(pa.table({key: list(table), "x": list(table.values())}), tmp_path / "losses.parquet")
    spec = {"path": "losses.parquet", "values": "loss", "columns": {1: "x"}, "key": key}
    config = job(tmp_path, spec, data=data("rows.jsonl"))
    trajectories = build_locally(config, "trajectories")
    assert trajectories.manifest.counts.rejected == {"not_scored": 1}
    assert trajectories.facts(TrajectoriesFacts).unused_rows == 1
    for name, loss in zip(names, stored_losses(config), strict=True):
        assert loss == ([None] if name == dropped else [np.float32(wanted[name])])


def test_losses_that_match_no_row_are_refused(tmp_path: Path, losses_NT: np.ndarray) -> None:
    write_rows(tmp_path / "rows.jsonl")
    pq.write_table(pa.table({"id": [f"x{n}" for n in range(ROWS)], "x": losses_NT[:, 0]}), tmp_path / "a.parquet")
    spec = {"path": "a.parquet", "values": "loss", "columns": {1: "x"}, "key": "id"}
    with pytest.raises(S2LError, match="no row"):
        build_locally(job(tmp_path, spec, data=data("rows.jsonl")), "trajectories")


def test_row_numbers_over_several_files_are_refused(tmp_path: Path, losses_NT: np.ndarray) -> None:
    for name in ("a", "b"):
        row = {"instruction": f"Question {name}?", "output": "Answer."}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    np.save(tmp_path / "losses.npy", losses_NT[:2])
    config = job(tmp_path, {"path": "losses.npy", "values": "loss"}, data=data("a.jsonl", "b.jsonl"))
    with pytest.raises(S2LError, match="2 files"):
        build_locally(config, "trajectories")
