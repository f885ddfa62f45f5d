"""Ranges and rows of sources, compared with files that are read as a whole."""

import errno
import gzip
import io
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2l_ray.core.data.examples import FORMATS
from s2l_ray.core.data.turns import RejectedRow, example_id
from s2l_ray.errors import ConfigError
from s2l_ray.sources import digests
from s2l_ray.sources.digests import folder_reference, source_reference
from s2l_ray.sources.files.compression import decompress
from s2l_ray.sources.files.json_text import read_json
from s2l_ray.sources.files.tables import read_row_group
from s2l_ray.sources.files.text import read_lines, split_lines
from s2l_ray.sources.ranges import Range, RangeReader, list_ranges
from s2l_ray.sources.rows import RawRow, SourceError
from s2l_ray.sources.spec import SourceSpec
from tests.support.bad_files import lines_of, row, write_bad_files
from tests.support.hub_server import Hub


def read_all(spec: SourceSpec, root: Path, range_bytes: int = 1 << 20) -> list[tuple[str, RawRow]]:
    """(file, row) of a source, with lines counted within the file; ranges pass through JSON as to a worker."""
    found, lines = [], Counter[str]()
    for one_range in list_ranges([spec], str(root), range_bytes):
        reader = RangeReader(Range(**json.loads(json.dumps(asdict(one_range)))))
        for raw in reader:
            found.append((one_range.file, RawRow(raw.line + lines[one_range.file], raw.row, raw.reason, raw.detail)))
        lines[one_range.file] += reader.lines
    return found


def good_rows(found: list[tuple[str, RawRow]]) -> list[Any]:
    return [raw.row for _, raw in found if raw.reason is None]


TRICKY = {
    "plain": lines_of("plain", 5),
    "returns": lines_of("returns", 4).replace(b"\n", b"\r\n"),
    "no last newline": lines_of("open", 3).rstrip(b"\n"),
    "mark": b"\xef\xbb\xbf" + lines_of("mark", 3),
    "blank lines": b"\n\n" + lines_of("blank", 2).replace(b"\n", b"\n\r\n \n") + b"\n\n",
    "long line": b'{"a": 1}\n{"b": "' + b"x" * 500 + b'"}\n{"c": 2}',
    "bad lines": b'{"a": 1}\n\xff\xfe\n[1]\n{"b"\n{"c": "\xc3\xa9"}\n',
    "only newlines": b"\n" * 70,
    "one character lines": b"1\n" * 40,
    "empty": b"",
}


@pytest.mark.parametrize("name", TRICKY)
def test_ranges_of_every_size_cover_the_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(TRICKY[name])
    expected = [
        (number, json.loads(text) if isinstance(loads(text), dict) else None)
        for number, text in enumerate(TRICKY[name].removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1)
        if text.strip()
    ]
    whole = read_all(SourceSpec("rows.jsonl"), tmp_path)
    assert [(raw.line, raw.row) for _, raw in whole] == expected
    for size in range(1, 61):
        assert read_all(SourceSpec("rows.jsonl"), tmp_path, size) == whole, size


def loads(text: bytes) -> Any:
    try:
        return json.loads(text.decode())
    except ValueError:
        return None


@given(st.lists(st.binary(max_size=6).map(lambda line: line.replace(b"\n", b"")), max_size=8), st.integers(1, 9))
def test_lines_do_not_depend_on_the_chunks(lines: list[bytes], size: int) -> None:
    data = b"\n".join(lines)
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    expected = data.split(b"\n")
    expected = expected[:-1] if expected[-1] == b"" else expected
    assert [line for _, line in split_lines(chunks)] == expected
    assert sum(length for length, _ in split_lines(chunks)) == len(data)
    short = [line if length <= 4 else None for line, length in split_lengths(expected, data)]
    assert [line for _, line in split_lines(chunks, max_bytes=4)] == short


def split_lengths(lines: list[bytes], data: bytes) -> list[tuple[bytes, int]]:
    closed = [len(line) + 1 for line in lines]
    if lines and not data.endswith(b"\n"):
        closed[-1] -= 1
    return list(zip(lines, closed, strict=True))


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('aé\\"', max_size=2), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(JSON_VALUES, max_size=6), st.integers(1, 20), st.booleans(), st.sampled_from([None, 1]))
def test_a_list_is_read_as_by_json_loads(values: list[Any], size: int, ascii_only: bool, indent: int | None) -> None:
    data = json.dumps(values, ensure_ascii=ascii_only, indent=indent).encode()
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    rows = list(read_json(chunks))
    assert [raw.line for raw in rows] == list(range(1, len(values) + 1))
    assert [raw.row for raw in rows] == [value if isinstance(value, dict) else None for value in values]
    assert [raw.reason for raw in rows] == [None if isinstance(value, dict) else "not_an_object" for value in values]
    for cut in range(1, len(data)):
        broken = list(read_json([data[:cut]]))
        assert broken[-1].reason == "file_broken"
        assert [raw.row for raw in broken[:-1]] == [raw.row for raw in rows[: len(broken) - 1]]


def test_reading_stops_early_at_a_row_without_an_end() -> None:
    endless = (b'[{"a": 1}, {"b": "' if i == 0 else b"x" * 1000 for i in range(1_000_000))
    rows = list(read_json(endless, max_bytes=20_000))
    assert [raw.row for raw in rows] == [{"a": 1}, None]
    assert rows[1].reason == "file_broken"
    assert len(list(endless)) > 900_000


class Pieces(io.BytesIO):
    """A file that returns at most `size` bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(data)
        self.size = size

    def readinto(self, buffer: Any) -> int:
        return super().readinto(memoryview(buffer)[: self.size])


def test_gzip_data_in_chunks_of_any_size_and_truncated() -> None:
    data = lines_of("packed", 300)
    packed = gzip.compress(data[:9000], mtime=0) + gzip.compress(data[9000:], mtime=0)
    for size in (1, 7, 1000, len(packed)):
        assert b"".join(decompress(Pieces(packed, size), "gzip")) == data
    high = gzip.compress(b"0" * (5 << 20), mtime=0)
    assert sum(map(len, decompress(io.BytesIO(high), "gzip"))) == 5 << 20
    assert max(map(len, decompress(io.BytesIO(high), "gzip"))) <= 1 << 20
    whole = [raw.row for raw in read_lines([data])]
    for cut in range(1, len(packed), 97):
        rows = list(read_lines(decompress(io.BytesIO(packed[:cut]), "gzip")))
        if cut != len(gzip.compress(data[:9000], mtime=0)):
            assert rows[-1].reason == "file_broken"
            assert [raw.row for raw in rows[:-1]] == whole[: len(rows) - 1]


def test_parquet_is_split_by_row_groups_and_keeps_every_type(tmp_path: Path) -> None:
    import datetime
    import decimal

    table = pa.table(
        {
            "text": [f"row {i}" for i in range(25)],
            "n": list(range(25)),
            "when": [datetime.datetime(2020, 1, 1 + i) for i in range(25)],
            "price": [decimal.Decimal(i) / 4 for i in range(25)],
            "packed": [bytes([i, 255]) for i in range(25)],
            "messages": [[{"role": "user", "content": str(i)}] for i in range(25)],
            "gap": [float("nan") if i % 2 else None for i in range(25)],
        }
    )
    (tmp_path / "folder").mkdir()
    pq.write_table(table, tmp_path / "folder" / "b.parquet", row_group_size=10)
    pq.write_table(table.slice(0, 0), tmp_path / "folder" / "a.parquet")
    spec = SourceSpec("folder")
    ranges = list_ranges([spec], str(tmp_path))
    assert [(one_range.file, one_range.kind, one_range.start, one_range.stop) for one_range in ranges] == [
        ("folder/b.parquet", "parquet", start, min(start + 10, 25)) for start in (0, 10, 20)
    ]
    found = read_all(spec, tmp_path)
    assert [raw.line for _, raw in found] == list(range(1, 26))
    rows = good_rows(found)
    assert [one["n"] for one in rows] == list(range(25))
    assert rows[3]["when"] == "2020-01-04T00:00:00"
    assert float(rows[3]["price"]) == 0.75
    assert rows[3]["packed"] == "A/8="
    assert rows[3]["messages"] == [{"role": "user", "content": "3"}]
    assert rows[2]["gap"] is None
    assert np.isnan(rows[3]["gap"])
    json.dumps(rows)


def test_the_order_is_source_file_name_and_position(tmp_path: Path) -> None:
    for name in ("z.jsonl", "many/b.jsonl", "many/a.jsonl.gz", "many/sub/a.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = lines_of(name, 3)
        path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    (tmp_path / "many" / "notes.txt").write_text("")
    specs = [SourceSpec("z.jsonl"), SourceSpec("many")]
    ranges = list_ranges(specs, str(tmp_path), 60)
    assert sorted(ranges, key=lambda one_range: (one_range.source, one_range.file, one_range.start)) == ranges
    assert list(dict.fromkeys((one_range.source, one_range.file) for one_range in ranges)) == [
        (0, "z.jsonl"),
        (1, "many/a.jsonl.gz"),
        (1, "many/b.jsonl"),
        (1, "many/sub/a.json"),
    ]


def test_splits_of_a_saved_data_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [row(f"saved {i}", n=i) for i in range(30)]
    saved = datasets.Dataset.from_list(rows)
    saved.select(range(29, -1, -1)).save_to_disk(tmp_path / "one", num_shards=3)
    datasets.DatasetDict({"train": saved, "test": saved.select([4])}).save_to_disk(tmp_path / "two")
    assert good_rows(read_all(SourceSpec("one"), tmp_path)) == rows[::-1]
    assert good_rows(read_all(SourceSpec("two", split="train"), tmp_path)) == rows
    assert good_rows(read_all(SourceSpec("two", split="test"), tmp_path)) == rows[4:5]
    with pytest.raises(ConfigError, match="train, test"):
        list_ranges([SourceSpec("two")], str(tmp_path))
    with pytest.raises(ConfigError, match="one"):
        list_ranges([SourceSpec("one", split="train")], str(tmp_path))
    (first, *_) = sorted((tmp_path / "one").glob("*.arrow"))
    first.write_bytes(first.read_bytes()[:-8])
    found = read_all(SourceSpec("one"), tmp_path)
    assert [raw.reason for _, raw in found if raw.reason] == ["file_broken"]
    assert good_rows(found) == rows[::-1]


def test_an_io_error_is_not_a_damaged_file(tmp_path: Path) -> None:
    class Disk(io.FileIO):
        """A disk whose first kilobyte cannot be read; the footer of a Parquet file is at its end."""

        def read(self, size: int | None = -1) -> bytes:
            if self.tell() < 1000:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(size)

    rows = pa.table({"a": [str(number) * 9 for number in range(100_000)]})
    pq.write_table(rows, tmp_path / "rows.parquet", row_group_size=50_000)
    with Disk(tmp_path / "rows.parquet") as disk:
        stream = pa.PythonFile(disk, mode="r")
        assert next(read_row_group(stream, "rows.parquet", 50_000)).row == {"a": "50000" * 9}
        with pytest.raises(OSError, match="Input/output"):
            next(read_row_group(stream, "rows.parquet", 0))


def test_a_data_set_of_the_hub_is_split_by_rows(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setattr("s2l_ray.sources.ranges.HUB_ROWS", 10)
    rows = [row(f"hub {i}") for i in range(25)]
    commit = hub.push("datasets/owner/rows", {"train.jsonl": "\n".join(map(json.dumps, rows)).encode()})
    spec = SourceSpec(hub="owner/rows", split="train", revision=commit)
    assert [(one_range.start, one_range.stop) for one_range in list_ranges([spec], "")] == [(0, 10), (10, 20), (20, 25)]
    found = read_all(spec, tmp_path)
    assert [raw.row for _, raw in found] == rows
    assert [raw.line for _, raw in found] == list(range(1, 26))
    assert source_reference(spec, "") == [["owner/rows", None, commit, "train"]]


def test_every_row_of_a_folder_of_bad_files_is_counted_by_reason(tmp_path: Path) -> None:
    bad = write_bad_files(tmp_path / "bad")
    seen: set[str] = set()
    counts, places = Counter[str](), {}
    for file, raw in read_all(SourceSpec("bad"), tmp_path, range_bytes=1000):
        reason = raw.reason
        if raw.row is not None:
            try:
                name = example_id(FORMATS["alpaca"](raw.row, {}))
                reason = "duplicate" if name in seen else "good"
                seen.add(name)
            except RejectedRow as error:
                reason = error.reason
        assert reason is not None
        counts[reason] += 1
        places[file.removeprefix("bad/"), raw.line] = reason
    assert counts == Counter(bad.rejected, good=bad.good)
    assert sum(counts.values()) == bad.rows_in
    for file, lines in bad.lines.items():
        for line, reason in lines.items():
            assert places[file, line] == reason


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("plain.jsonl.gz", lines_of("a", 1)),
        ("empty.jsonl.gz", b""),
        ("text.parquet", lines_of("a", 1)),
        ("packed.jsonl", gzip.compress(lines_of("a", 1), mtime=0)),
        ("table.jsonl", b"PAR1" + b"\0" * 50),
        ("wide.jsonl", lines_of("a", 1).decode().encode("utf-16")),
        ("list.jsonl", json.dumps([row("a")], indent=1).encode()),
        ("short.jsonl", json.dumps([row("a")]).encode() + b"\n"),
        ("long.jsonl", json.dumps([row("a")] * 1000).encode()),
        ("tabs.csv", b"prompt\tresponse\na\tb\n"),
        ("semicolons.csv", b'"prompt";"response"\n"a";"b"\n'),
        ("commas.tsv", b"prompt,response\na,b\n"),
        ("object.jsonl", json.dumps(row("a"), indent=1).encode()),
        ("words.json", b"hello\nworld\n"),
    ],
)
def test_content_that_does_not_match_the_file_name_is_an_error(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=re.escape(name)):
        list_ranges([SourceSpec(name)], str(tmp_path))


def test_the_reference_depends_on_the_partitions(tmp_path: Path) -> None:
    (tmp_path / "data" / "lang=en").mkdir(parents=True)
    (tmp_path / "data" / "lang=en" / "rows.jsonl").write_bytes(lines_of("a", 2))
    before = source_reference(SourceSpec("data"), str(tmp_path))
    (tmp_path / "data" / "lang=en").rename(tmp_path / "data" / "lang=de")
    assert source_reference(SourceSpec("data"), str(tmp_path)) != before


def test_a_parquet_file_without_its_footer_is_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": list(range(100))}), tmp_path / "cut.parquet")
    data = (tmp_path / "cut.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match=r"cut\.parquet"):
        list_ranges([SourceSpec("cut.parquet")], str(tmp_path))


def test_a_source_without_supported_files_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rows\.jsonl"):
        list_ranges([SourceSpec("rows.jsonl")], str(tmp_path))
    (tmp_path / "rows.xlsx").write_text("a,b\n")
    with pytest.raises(ConfigError, match=r"rows\.xlsx"):
        list_ranges([SourceSpec("rows.xlsx")], str(tmp_path))
    with pytest.raises(ConfigError, match=r"rows\.xlsx"):
        list_ranges([SourceSpec(".")], str(tmp_path))


def test_a_file_that_changed_since_it_was_listed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(lines_of("a", 3))
    (one_range,) = list_ranges([SourceSpec("rows.jsonl")], str(tmp_path))
    (tmp_path / "rows.jsonl").write_bytes(lines_of("a", 4))
    with pytest.raises(SourceError, match=r"rows\.jsonl"):
        list(RangeReader(one_range))


def test_source_names_and_filters_of_rows() -> None:
    by_field = SourceSpec("mix.jsonl.gz", source={"field": "set"}, only={"set": ["a", "7"], "kind": ["x"]})
    assert [by_field.source_name(one) for one in ({"set": "a"}, {"set": 7}, {"set": None}, {})] == [
        "a",
        "7",
        None,
        None,
    ]
    assert by_field.matches({"set": 7, "kind": "x"})
    assert not by_field.matches({"set": "b", "kind": "x"})
    assert not by_field.matches({"set": "a"})
    assert SourceSpec("mix.jsonl.gz", source={"name": "given"}).source_name({}) == "given"
    names = ("a/mix.jsonl.gz", "a/folder/", "v1.2.parquet", "s3://bucket/rows.json")
    assert [SourceSpec(name).source_name({}) for name in names] == ["mix", "folder", "v1.2", "rows"]
    assert SourceSpec(hub="TIGER-Lab/MathInstruct").source_name({}) == "MathInstruct"


def test_the_reference_depends_on_the_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib
    import os

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "SETTLED_NS", 0)
    (tmp_path / "a" / "deep").mkdir(parents=True)
    for name in ("a/z.jsonl", "a/b.jsonl", "a/deep/c.jsonl"):
        (tmp_path / name).write_bytes(lines_of(name, 2))
        os.utime(tmp_path / name, (1_600_000_000, 1_600_000_000))
    names = ["b.jsonl", "deep/c.jsonl", "z.jsonl"]
    expected = [[hashlib.sha256((tmp_path / "a" / name).read_bytes()).hexdigest()] for name in names]
    for _ in range(2):
        assert source_reference(SourceSpec("a"), str(tmp_path)) == expected
        assert source_reference(SourceSpec(str(tmp_path / "a" / "z.jsonl")), "/nowhere") == expected[2:]
        assert folder_reference(tmp_path / "a") == [[name, *one] for name, one in zip(names, expected, strict=True)]
    assert (tmp_path / "cache" / "s2l_ray" / "sha256.json").exists()
    (tmp_path / "a" / "z.jsonl").write_bytes(lines_of("a/z.jsonl", 2).replace(b"z", b"y"))
    assert source_reference(SourceSpec("a"), str(tmp_path))[2] != expected[2]
    (tmp_path / "cache" / "s2l_ray" / "sha256.json").write_text("[broken")
    assert source_reference(SourceSpec("a"), str(tmp_path))[:2] == expected[:2]


def test_every_real_row_is_read(shared_data: Path) -> None:
    spec = SourceSpec(
        "train", source={"field": "source"}, only={"source": ["numglue_pot", "mawps_eq", "strategyqa_cot"]}
    )
    rows = [one for one in good_rows(read_all(spec, shared_data)) if spec.matches(one)]
    assert Counter(spec.source_name(one) for one in rows) == {
        "numglue_pot": 3982,
        "mawps_eq": 1830,
        "strategyqa_cot": 2060,
    }


PEAK_OF_READING = """
import sys
from pathlib import Path
from s2l_ray.sources.ranges import RangeReader, list_ranges
from s2l_ray.sources.spec import SourceSpec

def peak():
    return int(dict(line.split(":") for line in Path("/proc/self/status").open())["VmHWM"].split()[0]) << 10

(one_range,) = list_ranges([SourceSpec(sys.argv[1])], "", 1 << 30)
before = peak()
print(sum(raw.row is not None for raw in RangeReader(one_range)), peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not report the peak of a process")
@pytest.mark.parametrize("name", ["rows.parquet", "rows.json"])
def test_a_large_range_is_read_in_bounded_memory(tmp_path: Path, name: str) -> None:
    """One row group or JSON list of 100 MB."""
    text = np.random.default_rng(0).integers(97, 122, 100_000).astype(np.uint8).tobytes().decode()
    rows, path = [{"prompt": str(number), "response": text} for number in range(1000)], tmp_path / name
    if name.endswith("parquet"):
        table = pa.Table.from_pylist(rows)
        pq.write_table(table, path, row_group_size=len(rows), use_dictionary=False, write_batch_size=16)
    else:
        path.write_text(json.dumps(rows))
    command = [sys.executable, "-c", PEAK_OF_READING, str(path)]
    read, peak = map(int, subprocess.run(command, capture_output=True, check=True, text=True).stdout.split())
    assert read == len(rows)
    assert peak < 150e6


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not report the peak of a process")
def test_a_row_group_of_chats_over_2_gigabytes_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """2,400 chats of 1 MB as list<struct>, of which pyarrow cannot make one array."""
    rows, size = 600, 1_000_000
    offsets = np.repeat(np.arange(rows + 1, dtype=np.int32), 2)[: 2 * rows + 1] * size
    texts = np.repeat(np.arange(97, 117, dtype=np.uint8), rows * size // 20)
    content = pa.StringArray.from_buffers(2 * rows, pa.py_buffer(offsets), pa.py_buffer(texts))
    turns = pa.StructArray.from_arrays([pa.array(["user", "assistant"] * rows), content], ["role", "content"])
    messages = pa.ListArray.from_arrays(pa.array(np.arange(0, 2 * rows + 1, 2, dtype=np.int32)), turns)
    table = pa.concat_tables([pa.table({"messages": messages})] * 4)
    pq.write_table(table, tmp_path / "chats.parquet", row_group_size=len(table), compression="zstd")
    command = [sys.executable, "-c", PEAK_OF_READING, str(tmp_path / "chats.parquet")]
    read, peak = map(int, subprocess.run(command, capture_output=True, check=True, text=True).stdout.split())
    assert read == 2400
    assert peak < 1e9


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_the_text_of_a_row_is_that_of_the_file_in_one_line(tmp_path: Path, name: str) -> None:
    rows = ['{"b": 0.12345678901234567890, "a":1e400, "c": 1.10}', '{"a": "x\u2028 y  z", "b" :[1E5,{}]}']
    listed = "[\n  " + ",\n  ".join(row.replace(', "', ',\r\n    "') for row in rows) + "\n]"
    (tmp_path / name).write_text(listed if name == "rows.json" else "".join(f"  {row}\r\n" for row in rows), newline="")
    (whole,) = list_ranges([SourceSpec(path=name)], str(tmp_path))
    assert [raw.text for raw in RangeReader(whole)] == rows


@pytest.mark.parametrize("kind", [pa.date32(), pa.timestamp("us"), pa.timestamp("ms", "Mars/Olympus")])
@pytest.mark.parametrize("nested", [False, True])
def test_a_value_that_python_cannot_represent_does_not_fail_its_range(
    tmp_path: Path, kind: pa.DataType, nested: bool
) -> None:
    numbers = pa.array([1 << 30, None, 5], pa.int32() if pa.types.is_date(kind) else pa.int64())
    numbers = numbers if pa.types.is_date(kind) else pa.compute.multiply(numbers, 1 << 31)
    odd = numbers.cast(kind) if pa.types.is_date(kind) else numbers.view(kind)
    column = pa.StructArray.from_arrays([odd], ["odd"]) if nested else odd
    pq.write_table(
        pa.table({"prompt": ["a", "b", "c"], "response": ["d", "e", "f"], "odd": column}), tmp_path / "r.parquet"
    )
    found = good_rows(read_all(SourceSpec(path="r.parquet"), tmp_path))
    assert [(row["prompt"], row["response"]) for row in found] == [("a", "d"), ("b", "e"), ("c", "f")]
