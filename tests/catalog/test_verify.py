"""`verify` names every stored file that differs from what was written, and no other."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from s2l_ray import storage
from s2l_ray.artifacts.fingerprint import seal
from s2l_ray.artifacts.manifest import open_artifact, write_manifest
from s2l_ray.artifacts.runs import record_run
from s2l_ray.artifacts.schemas import tokens_path
from s2l_ray.artifacts.tables import find_complete_unit, write_table
from s2l_ray.catalog.verify import verify, verify_artifact
from s2l_ray.errors import DamagedError, S2LError
from tests.support import sample_artifacts
from tests.support.sample_artifacts import complete, fingerprint, put_bytes


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


@dataclass(frozen=True)
class Stored:
    """A complete artifact on disk."""

    uri: str
    folder: Path


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    """A complete dataset of two shards and a tokenizer."""
    uri = sample_artifacts.begin(str(tmp_path), "dataset", fingerprint(1))
    files = [write_table(uri, tokens_path(shard), make_table()) for shard in range(2)]
    files.append(put_bytes(uri, "tokenizer/tokenizer.json", b'{"version": "1.0"}'))
    write_manifest(uri, sample_artifacts.manifest("dataset", fingerprint(1), files))
    return Stored(uri, Path(uri))


def flip(path: Path, position: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1 << bit
    path.write_bytes(bytes(data))


def faulty_files(uri: str) -> list[str]:
    return [fault.path for fault in verify_artifact(uri).faults]


def test_an_intact_artifact_has_no_faults(stored: Stored) -> None:
    (verified,) = verify(stored.uri)
    paths = [path for path in stored.folder.rglob("*") if path.is_file()]
    assert verified.faults == () and verified.files == len(paths)
    assert verified.bytes == sum(path.stat().st_size for path in paths)
    assert open_artifact(stored.uri).read_table().num_rows == 400


@pytest.mark.parametrize(
    "name", ["tokens/shard-00001.parquet", "manifest.json", "execution.json", "tokenizer/tokenizer.json"]
)
def test_a_flipped_bit_in_a_complete_artifact_is_found(stored: Stored, name: str) -> None:
    path = stored.folder / name
    original = path.read_bytes()
    for position in np.random.default_rng(1).integers(0, len(original), 12):
        path.write_bytes(original)
        flip(path, int(position), int(position) % 8)
        assert faulty_files(stored.uri) == [name], f"byte {position}"


def test_a_flipped_bit_anywhere_in_a_unit_is_found(tmp_path: Path) -> None:
    """Before a manifest exists, a table is checked by the sha256 that it holds."""
    uri = sample_artifacts.begin(str(tmp_path), "trajectories", fingerprint(2))
    key = {"checkpoint": "abc", "shard": "def"}
    write_table(uri, "unit.parquet", make_table(20), key)
    path = Path(uri) / "unit.parquet"
    original = path.read_bytes()
    assert find_complete_unit(uri, "unit.parquet", key) is not None
    for position in range(0, len(original), 3):
        path.write_bytes(original)
        flip(path, position, position % 8)
        assert find_complete_unit(uri, "unit.parquet", key) is None, f"byte {position} of {len(original)}"
    (verified,) = verify(uri)
    assert [fault.path for fault in verified.faults] == ["unit.parquet"]


def test_a_unit_with_another_key_is_not_complete(tmp_path: Path) -> None:
    write_table(str(tmp_path), "unit.parquet", make_table(), {"checkpoint": "abc"})
    assert find_complete_unit(str(tmp_path), "unit.parquet", {"checkpoint": "other"}) is None
    assert find_complete_unit(str(tmp_path), "missing.parquet", {}) is None


def test_a_checkpoint_of_an_incomplete_training_is_checked(tmp_path: Path) -> None:
    uri = sample_artifacts.begin(str(tmp_path), "checkpoints", fingerprint(3))
    record = put_bytes(f"{uri}/step-000010", "model.safetensors", b"weights")
    storage.write_bytes(f"{uri}/step-000010/checkpoint.json", seal({"step": 10, "files": [vars(record)]}))
    assert faulty_files(uri) == []
    flip(Path(uri) / "step-000010" / "model.safetensors", 3)
    assert faulty_files(uri) == ["step-000010/model.safetensors"]


def test_unlisted_and_missing_files_are_found(stored: Stored) -> None:
    (stored.folder / "tokens/shard-00000.parquet").rename(stored.folder / "tokens/orphan.parquet")
    assert sorted(faulty_files(stored.uri)) == ["tokens/orphan.parquet", "tokens/shard-00000.parquet"]


def test_a_root_is_verified_with_its_run_histories(stored: Stored, tmp_path: Path) -> None:
    root = str(tmp_path)
    record_run(root, "small", {"dataset": fingerprint(1)}, {})
    complete(root, "clusters", fingerprint(4))
    places = [f"{root}/clusters/{fingerprint(4)}", stored.uri, f"{root}/runs/small/history.json"]
    assert sorted(one.uri for one in verify(root)) == sorted(places)
    assert not any(one.faults for one in verify(root))
    flip(tmp_path / "runs" / "small" / "history.json", 40)
    assert [one.uri for one in verify(root) if one.faults] == [f"{root}/runs/small/history.json"]


def test_reading_a_damaged_file_raises_an_error_with_its_name(stored: Stored) -> None:
    flip(stored.folder / "tokens/shard-00001.parquet", 100)
    with pytest.raises(DamagedError, match=r"shard-00001\.parquet"):
        open_artifact(stored.uri).read_table()


def test_a_path_outside_the_folder_is_refused(tmp_path: Path) -> None:
    record = replace(put_bytes(str(tmp_path), "a", b"a"), path="../outside")
    with pytest.raises(DamagedError, match=r"\.\./outside"):
        write_manifest(str(tmp_path), sample_artifacts.manifest("dataset", fingerprint(1), [record]))


def test_an_artifact_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    for uri in (tmp_path / "none", tmp_path / "dataset" / fingerprint(1)):
        with pytest.raises(S2LError, match=str(uri)):
            list(verify(str(uri)))


def test_a_long_list_of_files_is_stored_beside_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2l_ray.artifacts.manifest.FILES_IN_MANIFEST", 2)
    contents = {f"shard-{shard:05d}.parquet": b"rows" for shard in range(3)}
    uri = complete(str(tmp_path), "clusters", fingerprint(5), contents).uri
    assert [record.path for record in open_artifact(uri).files()] == sorted(contents)
    assert faulty_files(uri) == []
    flip(Path(uri) / "files.parquet", 50)
    (fault,) = verify_artifact(uri).faults
    assert "files.parquet" in fault.problem
