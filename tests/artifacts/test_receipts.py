"""Receipts: a unit is complete if its receipt has the same key and all its files are intact."""

from dataclasses import dataclass

import pytest

from s2l_ray import storage
from s2l_ray.artifacts.fingerprint import seal
from s2l_ray.artifacts.receipts import read_receipt, write_receipt
from s2l_ray.artifacts.tables import FileRecord
from tests.support.sample_artifacts import put_bytes

KEY = {"range": "1", "sources": "abc"}


@dataclass(frozen=True)
class Parsed:
    """The result of a unit with two files."""

    files: list[FileRecord]
    lines: int
    by_reason: dict[str, int]
    longest: int | None = None


@dataclass(frozen=True)
class ParsedLater:
    """The same result in another version, with one field more."""

    files: list[FileRecord]
    lines: int
    by_reason: dict[str, int]
    shortest: int


def write_unit(folder: str) -> Parsed:
    files = [put_bytes(folder, f"work/part-{part}.parquet", bytes([part] * 50)) for part in range(2)]
    return write_receipt(folder, "work/part.json", KEY, Parsed(files, 200, {"duplicate": 3}))


def test_the_result_of_a_complete_unit_is_read_back(place: str) -> None:
    assert read_receipt(place, "work/part.json", KEY, Parsed) is None
    written = write_unit(place)
    assert read_receipt(place, "work/part.json", KEY, Parsed) == written


@pytest.mark.parametrize("key", [{}, {"range": "1"}, {**KEY, "range": "2"}, {**KEY, "more": "x"}], ids=str)
def test_a_unit_with_another_key_is_not_complete(tmp_path: object, key: dict[str, str]) -> None:
    write_unit(str(tmp_path))
    assert read_receipt(str(tmp_path), "work/part.json", key, Parsed) is None


@pytest.mark.parametrize("change", ["delete", "cut", "flip"])
@pytest.mark.parametrize("path", ["work/part-0.parquet", "work/part-1.parquet", "work/part.json"])
def test_a_unit_with_a_damaged_file_is_not_complete(place: str, path: str, change: str) -> None:
    write_unit(place)
    uri = f"{place}/{path}"
    data = storage.read_bytes(uri)
    if change == "delete":
        storage.delete_file(uri)
    else:
        storage.write_bytes(uri, data[:-1] if change == "cut" else data[:20] + bytes([data[20] ^ 1]) + data[21:])
    assert read_receipt(place, "work/part.json", KEY, Parsed) is None


def test_a_receipt_of_another_version_is_not_complete(tmp_path: object) -> None:
    write_unit(str(tmp_path))
    assert read_receipt(str(tmp_path), "work/part.json", KEY, ParsedLater) is None
    storage.write_bytes(storage.join(str(tmp_path), "work/part.json"), seal({"facts": KEY, "files": []}))
    assert read_receipt(str(tmp_path), "work/part.json", KEY, Parsed) is None
