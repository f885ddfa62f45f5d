"""Whatever bit is flipped in whatever stored file, `verify` names the file."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from s2l_ray.artifacts.fingerprint import seal
from s2l_ray.artifacts.manifest import Manifest, begin_execution, open_artifact, put_bytes, write_manifest
from s2l_ray.artifacts.receipts import read_receipt, write_receipt
from s2l_ray.artifacts.tables import find_complete_unit, write_table
from s2l_ray.catalog.verify import sizes_agree, verify
from s2l_ray.errors import DamagedError, S2LError


def make_table(rows: int = 200) -> pa.Table:
    rng = np.random.default_rng(0)
    series = pa.array(rng.normal(size=3 * rows).astype(np.float32))
    columns = {
        "name": [f"row {i % 7}" for i in range(rows)],
        "value": rng.normal(size=rows),
        "ids": pa.array([[i] * (i % 3) for i in range(rows)], pa.list_(pa.int32())),
        "losses": pa.FixedSizeListArray.from_arrays(series, 3, mask=pa.array([i % 5 == 0 for i in range(rows)])),
    }
    return pa.table(columns)


def make_artifact(folder: str) -> None:
    begin_execution(folder, {"threads": 1})
    files = [write_table(folder, f"shard-{i:05d}.parquet", make_table()) for i in range(2)]
    files.append(put_bytes(folder, "tokenizer/tokenizer.json", b'{"version": "1.0"}'))
    write_manifest(folder, Manifest("dataset", 1, "0" * 12, {}, {"data": {"seed": 0}}, {}, {}, files, {"read": 400}))


def flip(path: Path, position: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1 << bit
    path.write_bytes(bytes(data))


def test_a_whole_artifact_has_no_faults(tmp_path: Path) -> None:
    make_artifact(str(tmp_path))
    assert list(verify(str(tmp_path))) == []
    assert open_artifact(str(tmp_path)).read_table().num_rows == 400


@pytest.mark.parametrize("name", ["shard-00001.parquet", "manifest.json", "execution.json", "tokenizer/tokenizer.json"])
def test_a_flipped_bit_in_a_finished_artifact_is_named(tmp_path: Path, name: str) -> None:
    make_artifact(str(tmp_path))
    original = (tmp_path / name).read_bytes()
    for position in np.random.default_rng(1).integers(0, len(original), 12):
        (tmp_path / name).write_bytes(original)
        flip(tmp_path / name, int(position), int(position) % 8)
        assert name in [fault.path for fault in verify(str(tmp_path))], f"byte {position}"


def test_every_bit_of_an_unfinished_unit_counts(tmp_path: Path) -> None:
    """Before there is a manifest, a table proves itself: by page checksums, and by writing back to the same bytes."""
    facts = {"checkpoint": "abc", "shard": "def"}
    write_table(str(tmp_path), "unit.parquet", make_table(20), facts)
    whole = (tmp_path / "unit.parquet").read_bytes()
    assert find_complete_unit(str(tmp_path), "unit.parquet", facts) is not None
    for position in range(0, len(whole), 3):
        (tmp_path / "unit.parquet").write_bytes(whole)
        flip(tmp_path / "unit.parquet", position, position % 8)
        assert find_complete_unit(str(tmp_path), "unit.parquet", facts) is None, f"byte {position} of {len(whole)}"
    assert [fault.path for fault in verify(str(tmp_path))] == ["unit.parquet"]


def test_a_unit_made_from_something_else_is_not_done(tmp_path: Path) -> None:
    write_table(str(tmp_path), "unit.parquet", make_table(), {"checkpoint": "abc"})
    assert find_complete_unit(str(tmp_path), "unit.parquet", {"checkpoint": "other"}) is None
    assert find_complete_unit(str(tmp_path), "missing.parquet", {}) is None


def test_a_checkpoint_of_an_unfinished_training_is_checked(tmp_path: Path) -> None:
    record = put_bytes(str(tmp_path / "step-000010"), "model.safetensors", b"weights")
    (tmp_path / "step-000010" / "checkpoint.json").write_bytes(seal({"step": 10, "files": [vars(record)]}))
    assert list(verify(str(tmp_path))) == []
    flip(tmp_path / "step-000010" / "model.safetensors", 3)
    assert [fault.path for fault in verify(str(tmp_path))] == ["step-000010/model.safetensors"]


def test_files_that_nobody_lists_are_named(tmp_path: Path) -> None:
    make_artifact(str(tmp_path))
    (tmp_path / "orphan.parquet").write_bytes(b"x")
    assert [fault.path for fault in verify(str(tmp_path))] == ["orphan.parquet"]


def test_missing_and_cut_files_show_in_a_listing_alone(tmp_path: Path) -> None:
    make_artifact(str(tmp_path))
    artifact = open_artifact(str(tmp_path))
    assert sizes_agree(artifact) == []
    (tmp_path / "shard-00000.parquet").unlink()
    shard = tmp_path / "shard-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert [fault.path for fault in sizes_agree(artifact)] == ["shard-00000.parquet", "shard-00001.parquet"]


def test_reading_a_damaged_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    make_artifact(str(tmp_path))
    flip(tmp_path / "shard-00001.parquet", 100)
    with pytest.raises(DamagedError, match=r"shard-00001\.parquet"):
        open_artifact(str(tmp_path)).read_table()


def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    record = put_bytes(str(tmp_path), "a", b"a")
    foreign = type(record)("../outside", None, record.bytes, record.sha256)
    with pytest.raises(DamagedError, match="leaves"):
        write_manifest(str(tmp_path), Manifest("dataset", 1, "0" * 12, {}, {}, {}, {}, [foreign]))


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(S2LError, match="nothing lies there"):
        list(verify(str(tmp_path / "none")))


def test_a_long_list_of_files_lies_beside_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2l_ray.artifacts.manifest.FILES_IN_MANIFEST", 2)
    make_artifact(str(tmp_path))
    assert len(open_artifact(str(tmp_path)).files()) == 3
    assert list(verify(str(tmp_path))) == []
    flip(tmp_path / "files.parquet", 50)
    assert "files.parquet" in str(next(iter(verify(str(tmp_path)))))


def test_a_receipt_stands_for_whole_files_of_the_same_facts(tmp_path: Path) -> None:
    record = write_table(str(tmp_path), "part.parquet", make_table())
    write_receipt(str(tmp_path), "part.json", {"range": "1"}, {"lines": 200}, [record])
    done = read_receipt(str(tmp_path), "part.json", {"range": "1"})
    assert done is not None and done["lines"] == 200
    assert read_receipt(str(tmp_path), "part.json", {"range": "2"}) is None
    flip(tmp_path / "part.parquet", 77)
    assert read_receipt(str(tmp_path), "part.json", {"range": "1"}) is None
