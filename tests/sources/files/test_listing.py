"""Files of a folder: what is read, what is skipped and named, splits, partitions and links."""

import re
from pathlib import Path

import pytest

from s2l_ray.errors import ConfigError
from s2l_ray.sources.files.listing import skipped_files
from s2l_ray.sources.ranges import RangeReader, list_ranges
from s2l_ray.sources.spec import SourceSpec
from tests.support.bad_files import lines_of


def write_files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(lines_of(name, 1))


def files_of(folder: Path, split: str | None = None) -> list[str]:
    """Paths of the files below `folder` that are read, one for each row."""
    ranges = list_ranges([SourceSpec(path=folder.name, split=split)], str(folder.parent))
    return [one.file.removeprefix(f"{folder.name}/") for one in ranges for _ in RangeReader(one)]


def test_files_of_a_folder_that_are_not_data_are_skipped_and_named(tmp_path: Path) -> None:
    hidden = ["_SUCCESS", "_temporary/0/part-1.jsonl", ".part-0.jsonl.crc", ".checkpoints/part-0.jsonl"]
    others = ["part-2.jsonl.xz", "part-3.xlsx"]
    data = ["_lang=en/part-0.jsonl", "day=1/part-0.jsonl", "part-1.JSONL"]
    write_files(tmp_path / "data", *hidden, *others, *data, "dataset_info.json", "nested/dataset_info.json")
    assert files_of(tmp_path / "data") == data
    unsupported, not_data = skipped_files(SourceSpec(path="data"), str(tmp_path))
    assert all(name in unsupported for name in others)
    named = ["_SUCCESS", "_temporary/", ".part-0.jsonl.crc", ".checkpoints/", "dataset_info.json"]
    assert all(name in not_data for name in named)


@pytest.mark.parametrize(
    "names",
    [
        {"train": ["train.jsonl"], "test": ["test.jsonl"]},
        {"train": ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"], "validation": ["dev/a.jsonl"]},
        {"train": ["math_train.jsonl"], "validation": ["math_valid.jsonl"], "test": ["math_test1.jsonl"]},
        {"train": ["split=train/a.jsonl"], "test": ["split=test/a.jsonl"]},
    ],
)
def test_a_folder_with_splits_is_read_by_split_only(names: dict[str, list[str]], tmp_path: Path) -> None:
    everything = sorted(name for files in names.values() for name in files)
    write_files(tmp_path / "data", *everything)
    with pytest.raises(ConfigError, match=r"split:") as refused:
        files_of(tmp_path / "data")
    assert all(split in str(refused.value) for split in names)
    for split, files in names.items():
        assert files_of(tmp_path / "data", split) == files
        (line,) = skipped_files(SourceSpec(path="data", split=split), str(tmp_path))
        assert all(name in line for name in everything if name not in files)
    assert files_of(tmp_path / "data", "all") == everything
    with pytest.raises(ConfigError, match="unknown"):
        files_of(tmp_path / "data", "unknown")


@pytest.mark.parametrize(
    "names",
    [
        ["train-0.jsonl", "train-1.jsonl"],
        ["test-0.jsonl", "test-1.jsonl"],
        ["math.jsonl", "train.jsonl"],
        ["math.jsonl", "unit_test_writing.jsonl", "contest.jsonl"],
    ],
)
def test_a_folder_without_a_held_back_split_is_read_whole(names: list[str], tmp_path: Path) -> None:
    write_files(tmp_path / "data", *names)
    assert files_of(tmp_path / "data") == sorted(names)


def test_a_test_file_beside_other_files_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path / "data", "math.jsonl", "math_test.jsonl")
    with pytest.raises(ConfigError, match=r"test \(1 files\)"):
        files_of(tmp_path / "data")


def test_a_file_has_no_splits(tmp_path: Path) -> None:
    write_files(tmp_path, "rows.jsonl")
    with pytest.raises(ConfigError, match="split: train"):
        list_ranges([SourceSpec(path="rows.jsonl", split="train")], str(tmp_path))


def test_links_to_nothing_and_to_a_folder_above_are_named_and_not_followed(tmp_path: Path) -> None:
    write_files(tmp_path, "elsewhere/b.jsonl", "data/a.jsonl")
    for name, target in {"loop": ".", "deep": "../elsewhere", "gone.jsonl": "nowhere", "self": "self"}.items():
        (tmp_path / "data" / name).symlink_to(target)
    (tmp_path / "elsewhere" / "back").symlink_to("../data")
    assert files_of(tmp_path / "data") == ["a.jsonl", "deep/b.jsonl"]
    (line,) = skipped_files(SourceSpec(path="data"), str(tmp_path))
    assert re.findall(r"[\w./]+", line.partition(": ")[2]) == ["deep/back", "gone.jsonl", "loop", "self"]


def test_partitions_are_columns(tmp_path: Path) -> None:
    write_files(tmp_path, "data/lang=e%20n/_day=2/a.jsonl", "data/lang=__HIVE_DEFAULT_PARTITION__/a.jsonl")
    found = [one.partitions for one in list_ranges([SourceSpec(path="data")], str(tmp_path))]
    assert found == [{"lang": None}, {"lang": "e n", "_day": "2"}]
