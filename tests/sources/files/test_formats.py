"""Every form of a source file, read as the same rows, and files that are refused."""

import bz2
import csv
import gzip
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.errors import S2LError
from s2l_ray.sources.files.delimited import read_delimited
from s2l_ray.sources.ranges import RangeReader, list_ranges
from s2l_ray.sources.rows import RawRow
from s2l_ray.sources.spec import SourceSpec

ROWS = [{"prompt": f'Question {i}, "é"?\nLine', "response": f"\u2028 {i}\tfine"} for i in range(7)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def delimited(delimiter: str) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, ["prompt", "response"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return file.getvalue()


def arrow_bytes(open_writer: Callable[..., Any]) -> bytes:
    sink, table = pa.BufferOutputStream(), pa.Table.from_pylist(ROWS)
    with open_writer(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def feather_bytes() -> bytes:
    sink = pa.BufferOutputStream()
    feather.write_feather(pa.Table.from_pylist(ROWS), sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


COLUMNS = {name: [row[name] for row in ROWS] for name in ("prompt", "response")}
NUMBERED = {name: {str(i): value for i, value in enumerate(values)} for name, values in COLUMNS.items()}
TEXTS: dict[str, str] = {
    "lines.jsonl": LINES,
    "lines.ndjson": LINES,
    "mark.jsonl": "\ufeff" + LINES,
    "returns.jsonl": LINES.replace("\n", "\r"),
    "both.jsonl": LINES.replace("\n", "\r\n"),
    "lines.json": LINES,
    "list.json": json.dumps(ROWS),
    "pretty_list.json": json.dumps(ROWS, indent=2),
    "pretty_objects.json": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "joined_objects.json": "".join(json.dumps(row) for row in ROWS),
    "data.json": json.dumps({"data": ROWS}),
    "version_and_data.json": "\ufeff"
    + json.dumps({"version": 1.0, "about": {"a": [1]}, "data": ROWS, "n": 7}, indent=1),
    "data_of_lines.json": '{"data": [\n' + ",\n".join(map(json.dumps, ROWS)) + "\n]}\n",
    "columns.json": json.dumps(COLUMNS),
    "numbered_columns.json": json.dumps(NUMBERED, indent=1),
    "cells.csv": delimited(","),
    "mark.csv": "\ufeff" + delimited(","),
    "returns.csv": delimited(",").replace("\r\n", "\r"),
    "cells.tsv": delimited("\t"),
}
FILES = {name: text.encode() for name, text in TEXTS.items()}
for packed_name, pack in (("gz", gzip.compress), ("zst", zstd), ("bz2", bz2.compress)):
    for plain in ("lines.jsonl", "returns.jsonl", "data.json", "columns.json", "cells.csv"):
        FILES[f"{plain}.{packed_name}"] = pack(FILES[plain])
SKIPPABLE_FRAME = b"\x50\x2a\x4d\x18" + b"\x04\0\0\0" + b"size"  # as pzstd writes it
FILES |= {
    "parallel.jsonl.zst": SKIPPABLE_FRAME + zstd(LINES.encode()),
    "LINES.JSONL": FILES["lines.jsonl"],
    "Lines.Jsonl.GZ": FILES["lines.jsonl.gz"],
    "file.arrow": arrow_bytes(pa.ipc.new_file),
    "stream.arrow": arrow_bytes(pa.ipc.new_stream),
    "table.feather": feather_bytes(),
}


def read(folder: Path, name: str, range_bytes: int = 1 << 20) -> list[RawRow]:
    return [raw for one in list_ranges([SourceSpec(name)], str(folder), range_bytes) for raw in RangeReader(one)]


@pytest.mark.parametrize("name", FILES)
def test_every_form_of_a_file_has_the_same_rows(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    for size in (1 << 20, 100):
        found = read(tmp_path, name, size)
        assert [(raw.row, raw.reason) for raw in found] == [(row, None) for row in ROWS]
    assert all(raw.text is None or json.loads(raw.text) == raw.row for raw in found)


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(("gz", "zst", "bz2", ".json", ".arrow"))])
def test_a_truncated_file_has_the_rows_before_its_end(name: str, tmp_path: Path) -> None:
    data = FILES[name]
    for cut in {len(data) - 1, len(data) // 2, len(data) // 3}:
        (tmp_path / name).write_bytes(data[:cut])
        try:
            found = read(tmp_path, name)
        except S2LError as error:
            assert name in str(error)
            continue
        good = [raw.row for raw in found if raw.reason is None]
        if good != ROWS:  # only white space or the end marker may be missing
            assert good == ROWS[: len(good)]
            assert found[-1].reason in ("file_broken", "undecodable")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"messages": [{"role": "user", "content": "a"}]}', 1),
        ('{"prompt": ["a", "b"], "response": ["c"]}', 1),
        ('{"prompt": "a", "response": "b"}', 1),
        ("  \n", 0),
        ("", 0),
        ("{}", 1),
    ],
)
def test_an_object_that_is_one_row(text: str, expected: int, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(text)
    assert [raw.row for raw in read(tmp_path, "one.json")] == [json.loads(text or "{}") for _ in range(expected)]


@pytest.mark.parametrize("keys", [("data", "more"), ("more", "data")])
def test_a_second_list_of_rows_is_not_lost_silently(keys: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "two.json").write_text(json.dumps(dict.fromkeys(keys, ROWS)))
    found = read(tmp_path, "two.json")
    assert [raw.row for raw in found] == [*ROWS, None]
    assert "more" in found[-1].detail


def test_rows_of_a_csv_file_that_do_not_fit_its_header_are_rejected(tmp_path: Path) -> None:
    text = 'a,b\n1,2\n\n"x\ny",2\n1\n1,2,3\n"a"b,2\n5,6\n\xff,1\n"open,1\n2,3\n'
    (tmp_path / "rows.csv").write_bytes(text.encode("latin-1"))
    found = [(raw.line, raw.row, raw.reason) for raw in read(tmp_path, "rows.csv")]
    assert found == [
        (2, {"a": "1", "b": "2"}, None),
        (4, {"a": "x\ny", "b": "2"}, None),
        (6, None, "undecodable"),
        (7, None, "undecodable"),
        (8, None, "undecodable"),
        (9, {"a": "5", "b": "6"}, None),
        (10, None, "undecodable"),
        (11, None, "undecodable"),
    ]


CELLS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


@given(
    st.lists(st.lists(CELLS, min_size=2, max_size=2), max_size=6), st.integers(1, 9), st.sampled_from(["csv", "tsv"])
)
def test_cells_are_read_as_they_were_written(rows: list[tuple[str, str]], size: int, kind: str) -> None:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=",\t"[kind == "tsv"], quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([["a", "b"], *rows])
    data = file.getvalue().encode()
    found = list(read_delimited([data[i : i + size] for i in range(0, len(data), size)], kind))
    assert [raw.row for raw in found] == [{"a": first, "b": second} for first, second in rows]


@pytest.mark.parametrize("name", ["long.jsonl", "long.json", "long.csv"])
def test_a_long_run_of_spaces_is_read_in_linear_time(name: str, tmp_path: Path) -> None:
    row = {"prompt": "a" + " " * 1_000_000 + "b", "response": " " * 1_000_000}
    texts = {"long.jsonl": json.dumps(row), "long.json": json.dumps(row, indent=1)}
    (tmp_path / name).write_text(texts.get(name, f"prompt,response\n{row['prompt']},{row['response']}\n"))
    begin = time.process_time()
    assert [raw.row for raw in read(tmp_path, name)] == [row]
    assert time.process_time() - begin < 2


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "p.csv", "p.parquet", "p.arrow", "p.jsonl.gz"])
def test_a_pointer_of_git_lfs_is_refused_with_the_command(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(S2LError, match="git lfs pull"):
        read(tmp_path, name)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.table([["a"], ["b"], ["c"]], names=["prompt", "response", "response"])
    pq.write_table(table, tmp_path / "twice.parquet")
    with pa.OSFile(str(tmp_path / "twice.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "twice.csv").write_text("prompt,response,response\na,b,c\n")
    for name in ("twice.parquet", "twice.arrow", "twice.csv"):
        with pytest.raises(S2LError, match="response"):
            read(tmp_path, name)


@st.composite
def damaged_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """A name with any supported extension, and any bytes or those of a file with a part replaced."""
    name = draw(st.sampled_from(list(FILES)))
    if draw(st.booleans()):
        return name, draw(st.binary(max_size=200))
    data = FILES[draw(st.sampled_from([name, *FILES]))]
    start = draw(st.integers(0, len(data)))
    stop = draw(st.integers(start, min(len(data), start + 30)))
    piece = draw(st.binary(max_size=8) | st.sampled_from([b"[", b"{", b'"', b"\r", b"\n"]))
    return name, data[:start] + piece + data[stop:]


def check_any_bytes(folder: Path, name: str, data: bytes) -> None:
    """Each row has an object or a reason, in the order of lines; a file is refused with its name."""
    (folder / name).write_bytes(data)
    try:
        found = read(folder, name, range_bytes=64)
    except S2LError as error:
        assert name in str(error)
        return
    assert all((raw.row is None) != (raw.reason is None) for raw in found)
    json.dumps([raw.row for raw in found], ensure_ascii=False).encode()


@given(damaged_files())
@settings(max_examples=100)
def test_any_bytes_are_rows_or_an_error_with_the_name_of_the_file(file: tuple[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check_any_bytes(Path(folder), *file)


@pytest.mark.long
@given(damaged_files())
@settings(max_examples=10_000)
def test_ten_thousand_damaged_files(file: tuple[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check_any_bytes(Path(folder), *file)
