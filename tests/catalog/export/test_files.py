"""Export of a subset: the rows as they were read, in every format, and nothing from damaged files."""

import gzip
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from s2l_ray.artifacts.manifest import open_artifact
from s2l_ray.catalog.export.export import export_subset
from s2l_ray.catalog.export.files import spelled_fields
from s2l_ray.errors import ConfigError, DamagedError, S2LError
from tests.support.small_store import SUBSET_NAME, Store, write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("store"))


def expected_rows(store: Store) -> list[dict[str, object]]:
    return [store.rows[position] for position in store.selected]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_the_rows_are_exported_as_they_were_read(store: Store, tmp_path: Path, suffix: str) -> None:
    from datasets import load_dataset

    target = tmp_path / "new" / f"rows{suffix}"
    exported = export_subset(store.subset, str(target))
    assert (exported.path, exported.rows) == (str(target), len(store.selected))
    assert exported.bytes == target.stat().st_size
    kind = "parquet" if suffix == ".parquet" else "json"
    loaded = load_dataset(kind, data_files=str(target), split="train", cache_dir=str(tmp_path / "cache")).to_list()
    names = {name for row in store.rows for name in row}
    assert loaded == [{name: row.get(name) for name in names} for row in expected_rows(store)]
    if kind == "json":
        text = gzip.decompress(target.read_bytes()) if suffix.endswith("gz") else target.read_bytes()
        assert [json.loads(line) for line in text.decode().splitlines()] == expected_rows(store)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_two_exports_are_identical(store: Store, tmp_path: Path, suffix: str) -> None:
    targets = [tmp_path / f"{number}{suffix}" for number in range(2)]
    for target in targets:
        export_subset(store.subset, str(target))
    assert targets[0].read_bytes() == targets[1].read_bytes()


def test_rows_are_exported_to_an_object_store(store: Store, s3: str) -> None:
    from s2l_ray import storage

    export_subset(store.subset, f"{s3}/rows.jsonl")
    lines = storage.read_bytes(f"{s3}/rows.jsonl").decode().splitlines()
    assert [json.loads(line) for line in lines] == expected_rows(store)


def test_nothing_is_overwritten_without_force(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    target.write_text("mine")
    with pytest.raises(ConfigError, match="--force"):
        export_subset(store.subset, str(target))
    assert target.read_text() == "mine"
    export_subset(store.subset, str(target), force=True)
    assert len(target.read_text().splitlines()) == len(store.selected)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_other_suffixes_and_kinds_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rows\.csv"):
        export_subset(store.subset, str(tmp_path / "rows.csv"))
    with pytest.raises(ConfigError, match="dataset"):
        export_subset(store.dataset, str(tmp_path / "rows.jsonl"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("kind", ["subset", "dataset"])
def test_damaged_files_are_not_exported(store: Store, tmp_path: Path, kind: str, suffix: str) -> None:
    root = shutil.copytree(store.root, tmp_path / "root")
    shard = next((root / kind).rglob("shard-00000.parquet"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamagedError, match=str(shard)):
        export_subset(open_artifact(str(root / "subset" / SUBSET_NAME)), str(tmp_path / f"rows{suffix}"))
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_a_subset_without_its_dataset_is_not_exported(store: Store, tmp_path: Path) -> None:
    root = shutil.copytree(store.root, tmp_path / "root")
    shutil.rmtree(root / "dataset")
    with pytest.raises(S2LError, match="dataset"):
        export_subset(open_artifact(str(root / "subset" / SUBSET_NAME)), str(tmp_path / "rows.jsonl"))


def test_fields_without_a_parquet_type_are_exported_as_json_text(tmp_path: Path) -> None:
    odd: list[object] = [{}, 2**64 + 1, "text", [1, "two"], {"a": {}}, float("inf"), None, 1.5]
    rows = [{"prompt": "a", "response": f"answer {n}", "odd": odd[n // 2 % 8], "level": n} for n in range(40)]
    store = write_store(tmp_path / "store", rows)
    exported = export_subset(store.subset, str(tmp_path / "rows.parquet"))
    assert exported.json_fields == ("odd",)
    loaded = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert [{**row, "odd": row["odd"] and json.loads(row["odd"])} for row in loaded] == expected_rows(store)


def test_json_text_has_the_digits_of_the_row() -> None:
    text = '{ "a" : 0.12345678901234567890,\t"b":[1e400 ,1.10], "\\u00e9": {"c" : 2}, "b": 1E500}'
    exported = list(spelled_fields(text))
    assert exported == [("a", "0.12345678901234567890"), ("b", "[1e400 ,1.10]"), ("é", '{"c" : 2}'), ("b", "1E500")]
