"""Files that name rows: lists of ids or row numbers, and columns of values."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2l_ray.catalog.row_lists import read_column, read_row_list
from s2l_ray.errors import ConfigError

IDS = [["a", "b", "c"], [], ["d", "a"]]
STARTS = [0, 3, 3]


def masks(folder: Path, *texts: str) -> list[int]:
    """Row numbers that the files name."""
    paths = [folder / f"{number}.txt" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    named = read_row_list("keep", [str(path) for path in paths])
    assert named is not None
    found = [start + np.flatnonzero(named.mask(start, ids)) for start, ids in zip(STARTS, IDS, strict=True)]
    named.check_complete(5)
    return np.concatenate(found).tolist()


def test_ids_and_row_numbers(tmp_path: Path) -> None:
    assert masks(tmp_path, "b\n\n d \n") == [1, 3]
    assert masks(tmp_path, "a") == [0, 4], "every row with this id"
    assert masks(tmp_path, "4\n0", "3\n3\n") == [0, 3, 4]
    assert masks(tmp_path, "") == []
    assert read_row_list("keep", []) is None


@pytest.mark.parametrize("text", ["a\nnone\n", "0\n5", "-1", "a\n0"])
def test_unknown_rows_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"select\.keep: 1 "):
        masks(tmp_path, text)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name in ("none", "bytes"):
        with pytest.raises(ConfigError, match=name):
            read_row_list("drop", [str(tmp_path / name)])


def write(path: Path, **columns: list[object]) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_values_by_id_and_by_line(tmp_path: Path) -> None:
    by_id = read_column(write(tmp_path / "a.parquet", example_id=["b", "a", "long id"], value=[2, None, 4]), "value")
    assert by_id.by_id
    np.testing.assert_array_equal(by_id.lookup(["a", "b", "none", "long id", "long"]), [np.nan, 2, np.nan, 4, np.nan])
    by_line = read_column(write(tmp_path / "b.parquet", file=["x", "x"], line=[2, 10], value=[1.5, 2.5]), "value")
    assert not by_line.by_id
    np.testing.assert_array_equal(by_line.lookup(["x:10", "x:1", "x:2"]), [2.5, np.nan, 1.5])
    empty = read_column(
        write(tmp_path / "c.parquet", example_id=pa.array([], pa.string()), value=pa.array([], pa.int8())), "value"
    )
    assert np.isnan(empty.lookup(["a"])).all()


def test_a_file_without_the_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no Parquet")
    for path, named in (
        (str(tmp_path / "none.parquet"), "does not exist"),
        (str(tmp_path / "text.parquet"), "Parquet"),
        (write(tmp_path / "a.parquet", value=[1]), "example_id"),
        (write(tmp_path / "b.parquet", example_id=["a"], other=[1]), "value"),
        (write(tmp_path / "c.parquet", example_id=["a", "a"], value=[1, 2]), "more than one"),
        (write(tmp_path / "d.parquet", example_id=["a"], value=["text"]), "numbers"),
    ):
        with pytest.raises(ConfigError, match=named):
            read_column(path, "value")
