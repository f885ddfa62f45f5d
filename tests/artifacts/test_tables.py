"""Tables as units of work: intact if no byte has changed, whatever library wrote them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2l_ray.artifacts.tables import (
    encode_table,
    find_complete_unit,
    is_intact,
    read_table,
    record_of,
    write_row_groups,
    write_table,
)


def make_table() -> pa.Table:
    ids = pa.array([[row] * (row % 3) for row in range(200)], pa.list_(pa.int32()))
    return pa.table({"name": [f"row {row % 7}" for row in range(200)], "ids": ids})


def test_a_unit_of_another_library_version_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer, here one with snappy, gives other bytes for the same table."""
    now = encode_table(make_table(), {"checkpoint": "abc"})
    with monkeypatch.context() as patched:
        write = pq.write_table
        patched.setattr(
            pq, "write_table", lambda *rest, **options: write(*rest, **{**options, "compression": "snappy"})
        )
        record = write_table(str(tmp_path), "unit.parquet", make_table(), {"checkpoint": "abc"})
    assert (tmp_path / "unit.parquet").read_bytes() != now
    assert find_complete_unit(str(tmp_path), "unit.parquet", {"checkpoint": "abc"}) == record


def test_a_table_written_in_row_groups_is_checked_like_any_other(tmp_path: Path) -> None:
    table = make_table()
    with write_row_groups(str(tmp_path), "a/rows.parquet", table.schema) as writer:
        for start in range(0, len(table), 64):
            writer.write(table.slice(start, 64))
    record = writer.record
    data = (tmp_path / "a/rows.parquet").read_bytes()
    assert record == record_of("a/rows.parquet", data, len(table)) and is_intact(data)
    assert not is_intact(data[:-1]) and not is_intact(b"") and not is_intact(data[:40])
    assert read_table(str(tmp_path), record) == table


def test_a_table_of_a_failed_block_is_not_stored(tmp_path: Path) -> None:
    with pytest.raises(ValueError), write_row_groups(str(tmp_path), "rows.parquet", make_table().schema) as writer:
        writer.write(make_table())
        raise ValueError
    assert list(tmp_path.iterdir()) == []
