"""Losses computed elsewhere: what is read from each kind of file, and what is refused."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2l_ray.errors import ConfigError, S2LError
from s2l_ray.sources.losses import LossesSpec, LossTable, losses_files, read_losses


def read(path: Path, values: str = "loss", columns: Mapping[int, str | int] | None = None, **keys: Any) -> LossTable:
    return read_losses(LossesSpec(str(path), values, columns or {}, **keys))


def write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_columns_in_the_order_of_their_steps(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", late=[0.25, 0.5], early=[3, 2], other=["x", "y"])
    table = read(path, columns={100: "late", 0: "early"})
    assert table.steps == (0, 100)
    assert table.loss_NT.tolist() == [[3.0, 0.25], [2.0, 0.5]]
    assert table.name_N is None and table.tokens_N is None


def test_entries_of_a_list_column(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", p=[[1.0, 2.0], [3.0, 4.0]], **{"p[1]x": [5.0, 6.0]})
    assert read(path, columns={0: "p[1]", 1: "p[0]"}).loss_NT.tolist() == [[2.0, 1.0], [4.0, 3.0]]
    assert read(path, columns={0: "p[1]x"}).loss_NT.tolist() == [[5.0], [6.0]]
    with pytest.raises(S2LError, match=r"p\[2\]"):
        read(path, columns={0: "p[2]"})


@pytest.mark.parametrize(
    ("values", "stored", "loss"),
    [
        ("loss", 2.5, 2.5),
        ("perplexity", 1e300, 300 * math.log(10)),
        ("perplexity", 1.0, 0.0),
        ("nll_sum", 10.0, 2.5),
        ("loss", float("inf"), None),
        ("loss", None, None),
        ("perplexity", 0.0, None),
        ("perplexity", -1.0, None),
        ("perplexity", float("nan"), None),
    ],
)
def test_values_become_mean_losses_and_a_missing_one_stays_missing(
    tmp_path: Path, values: str, stored: float | None, loss: float | None
) -> None:
    path = write(tmp_path / "a.parquet", x=[stored, 1.0], n=[4, 2])
    table = read(path, values, {1: "x"}, tokens="n")
    assert table.loss_NT[0, 0] == pytest.approx(loss, rel=1e-12) if loss is not None else np.isnan(table.loss_NT[0, 0])
    assert table.tokens_N is not None and table.tokens_N.tolist() == [4, 2]


def test_columns_outside_the_mapping_are_not_read(tmp_path: Path) -> None:
    """A damaged column fails only if it is read."""
    path = write(tmp_path / "a.parquet", other=np.random.default_rng(0).random(10_000), x=[1.0] * 10_000)
    data = bytearray(path.read_bytes())
    data[4:1100] = bytes(1096)
    path.write_bytes(data)
    assert read(path, columns={0: "x"}).loss_NT.tolist() == [[1.0]] * 10_000
    with pytest.raises(S2LError, match=r"a\.parquet"):
        read(path, columns={0: "other"})


def test_rows_are_sorted_by_their_row_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", row=[2, 0, 1], x=[0.2, 0.0, 0.1])
    assert read(path, columns={0: "x"}).loss_NT.tolist() == [[0.0], [0.1], [0.2]]
    for numbers in ([0, 1, 3], [0, 1, 1], [1, 2, 3]):
        with pytest.raises(S2LError, match="row"):
            read(write(tmp_path / "b.parquet", row=numbers, x=[1.0, 2.0, 3.0]), columns={0: "x"})


def test_rows_are_named_by_a_column_of_unique_values(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", id=[7, 5], x=[1.0, 2.0], again=["a", "a"], some=["a", None])
    named = read(path, columns={0: "x"}, key="id").name_N
    assert named is not None and named.to_pylist() == ["7", "5"]
    for key in ("again", "some", "missing"):
        with pytest.raises(S2LError, match=key):
            read(path, columns={0: "x"}, key=key)


def test_a_folder_of_parquet_files_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    write(tmp_path / "b.parquet", x=[3.0])
    write(tmp_path / "a.parquet", x=[1.0, 2.0])
    assert read(tmp_path, columns={0: "x"}).loss_NT.tolist() == [[1.0], [2.0], [3.0]]


@pytest.mark.parametrize("columns", [{}, {0: "missing"}, {0: "text"}, {0: "list"}])
def test_columns_that_are_missing_or_no_numbers_are_refused(tmp_path: Path, columns: dict[int, str | int]) -> None:
    path = write(tmp_path / "a.parquet", x=[1.0], text=["a"], list=[[1.0]])
    with pytest.raises(S2LError, match="columns" if not columns else str(columns[0])):
        read(path, columns=columns)


def test_an_array_is_read_by_column_numbers(tmp_path: Path) -> None:
    value_NT = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
    np.save(tmp_path / "a.npy", value_NT)
    assert read(tmp_path / "a.npy").steps == (0, 1, 2)
    assert read(tmp_path / "a.npy").loss_NT.tolist() == value_NT.tolist()
    assert read(tmp_path / "a.npy", columns={5: 2, 1: 0}).loss_NT.tolist() == [[1.0, 3.0], [4.0, 6.0]]
    np.save(tmp_path / "b.npy", value_NT[:, 0])
    assert read(tmp_path / "b.npy").loss_NT.tolist() == [[1.0], [4.0]]
    for columns in ({0: 3}, {0: "x"}):
        with pytest.raises(S2LError, match="0 to 2"):
            read(tmp_path / "a.npy", columns=columns)


@pytest.mark.parametrize("array", [np.array([{"a": 1}, None], object), np.array(["a", "b"]), np.zeros((2, 2, 2))])
def test_an_array_of_anything_else_is_refused(tmp_path: Path, array: Any) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(S2LError, match=r"a\.npy"):
        read(tmp_path / "a.npy")


class Payload:
    """An object whose unpickling leaves a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("unpickled", "w")


@pytest.mark.parametrize("name", ["a.pt", "a.pkl", "a.npz", "a.pth", "a.bin"])
def test_a_pickle_is_refused_unread_with_a_conversion(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pickle

    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(pickle.dumps(Payload()))
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(ConfigError, match="convert"):
            losses_files(str(path))
    assert not (tmp_path / "unpickled").exists()


def test_a_folder_without_losses_or_with_several_kinds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="parquet"):
        losses_files(str(tmp_path / "missing"))
    write(tmp_path / "a.parquet", x=[1.0])
    np.save(tmp_path / "a.npy", np.zeros(1))
    with pytest.raises(ConfigError, match="kinds"):
        losses_files(str(tmp_path))


def write_epoch(folder: Path, epoch: int, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"dynamics_epoch_{epoch}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_training_dynamics_are_joined_over_the_epochs(tmp_path: Path) -> None:
    """Cross entropy from the definition; each epoch in an order of its own."""
    logits = {(guid, epoch): [0.5 * guid - epoch, epoch * 1.0, 0.25] for guid in range(3) for epoch in range(2)}
    gold = [2, 0, 1]
    for epoch, order in ((0, [2, 0, 1]), (1, [1, 2, 0])):
        lines = [{"guid": guid, f"logits_epoch_{epoch}": logits[guid, epoch], "gold": gold[guid]} for guid in order]
        write_epoch(tmp_path / "dynamics", epoch, lines)
    table = read(tmp_path / "dynamics", "logits")
    assert table.steps == (1, 2), "the first epoch is not the state before training"
    for guid in range(3):
        for epoch in range(2):
            total = sum(math.exp(one) for one in logits[guid, epoch])
            expected = -math.log(math.exp(logits[guid, epoch][gold[guid]]) / total)
            assert table.loss_NT[guid, epoch] == pytest.approx(expected, rel=1e-12)
    named = read(tmp_path / "dynamics", "logits", key="guid", columns={7: "logits_epoch_1"})
    assert named.steps == (7,)
    assert named.name_N is not None and sorted(named.name_N.to_pylist()) == ["0", "1", "2"]


@pytest.mark.parametrize(
    "row",
    [
        {"guid": 0, "gold": 0},
        {"guid": 0, "logits_epoch_0": [1.0, 2.0]},
        {"gold": 0, "logits_epoch_0": [1.0, 2.0]},
        {"guid": 0, "logits_epoch_0": [1.0, 2.0], "gold": 2},
        {"guid": 0, "logits_epoch_0": [1.0, 2.0], "gold": -1},
    ],
)
def test_lines_that_are_no_training_dynamics_are_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    write_epoch(tmp_path / "dynamics", 0, [row])
    with pytest.raises(S2LError, match="dynamics_epoch_0"):
        read(tmp_path / "dynamics", "logits")


def test_numbers_of_rows_that_are_text_are_sorted_as_numbers(tmp_path: Path) -> None:
    guids = [11, 2, 10, 9, 8, 7, 6, 5, 4, 3, 1, 0]
    rows = [{"guid": str(guid), "logits_epoch_0": [float(guid), 0.0], "gold": 1} for guid in guids]
    write_epoch(tmp_path / "dynamics", 0, rows)
    expected = [math.log1p(math.exp(guid)) for guid in sorted(guids)]
    assert read(tmp_path / "dynamics", "logits").loss_NT[:, 0].tolist() == pytest.approx(expected)


def test_an_epoch_in_two_files_is_refused(tmp_path: Path) -> None:
    row = {"guid": 0, "logits_epoch_0": [1.0, 2.0], "gold": 0}
    write_epoch(tmp_path / "dynamics", 0, [row])
    write_epoch(tmp_path / "dynamics", 1, [row])
    with pytest.raises(S2LError, match="dynamics_epoch_1"):
        read(tmp_path / "dynamics", "logits")


def test_values_that_a_kind_of_file_does_not_hold_are_refused(tmp_path: Path) -> None:
    row = {"guid": 0, "logits_epoch_0": [0.0, 0.0], "gold": 0}
    write_epoch(tmp_path / "dynamics", 0, [row])
    assert read(tmp_path / "dynamics", "loss").loss_NT.tolist() == [[pytest.approx(math.log(2))]]
    columns: dict[int, str | int] = {0: "logits_epoch_0"}
    for values in ("perplexity", "nll_sum"):
        with pytest.raises(ConfigError, match=r"losses_from\.values"):
            read(tmp_path / "dynamics", values, columns)
    path = write(tmp_path / "a.parquet", logits_epoch_0=[0.5, 1.0])
    with pytest.raises(ConfigError, match=r"losses_from\.values"):
        read(path, "logits", columns)


@pytest.mark.parametrize("name", ["a.parquet", "a.npy", "a.jsonl"])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"{no losses")
    with pytest.raises(S2LError, match=name):
        read(tmp_path / name, columns={0: "x"} if name != "a.npy" else None)


def test_published_perplexities_are_their_logarithms(shared_data: Path) -> None:
    path = shared_data / "trajectories" / "alpaca_perplexities.parquet"
    table = read(path, "perplexity", {step: f"llama2-13b[{step}]" for step in range(4)})
    expected = np.log(np.array(pq.read_table(path)["llama2-13b"].to_pylist()))
    assert len(table) == 52_002
    assert np.array_equal(table.loss_NT, expected)
